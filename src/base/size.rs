//! Sizes as people write them: `500M`, `10G`, `1T`; the units are powers of 1024.

/// Bytes in a size.
///
/// # Errors
/// What is wrong with it.
pub fn parse(text: &str) -> Result<u64, &'static str> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text.get(digits.len()..).unwrap_or_default();
    let unit = ["iB", "B"]
        .iter()
        .find_map(|b| unit.strip_suffix(b))
        .unwrap_or(unit);
    let unit: u64 = match unit.to_ascii_uppercase().as_str() {
        "" if digits == "0" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        "T" => 1 << 40,
        "" => return Err("a size needs a unit: K, M, G or T"),
        _ => return Err("the units are K, M, G and T"),
    };
    let n: u64 = digits
        .parse()
        .map_err(|_| "a size is a whole number and a unit")?;
    n.checked_mul(unit).ok_or("more than there is")
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("500M", 500 << 20),
            ("10GiB", 10 << 30),
            ("1TB", 1 << 40),
            ("4k", 4096),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in ["", "10", "10X", "-1G", "1.5G", "G", "99999999999T"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
