//! Durations as people write them: `30s`, `10m`, `24h`, `7d`.

/// Seconds in a duration of at least one second and at most ten years.
pub(super) fn parse(text: &str) -> Result<u64, &'static str> {
    const YEARS_10: u64 = 10 * 366 * 86_400;
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..).unwrap_or_default() {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 604_800,
        "" => return Err("a duration needs a unit: s, m, h, d or w"),
        _ => return Err("the units are s, m, h, d and w"),
    };
    let n: u64 = digits
        .parse()
        .map_err(|_| "a duration is a whole number and a unit")?;
    match n.checked_mul(unit) {
        Some(0) => Err("a duration is not zero"),
        Some(s) if s <= YEARS_10 => Ok(s),
        _ => Err("at most ten years"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, s) in [
            ("30s", 30),
            ("10m", 600),
            ("24h", 86_400),
            ("7d", 604_800),
            ("2w", 1_209_600),
        ] {
            assert_eq!(parse(text), Ok(s), "{text}");
        }
        for bad in [
            "",
            "s",
            "10",
            "0s",
            "-1s",
            "1.5h",
            "1y",
            "99999d",
            "18446744073709551615w",
            "1 h",
            "é",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
