//! Ranges of bytes that a client asks for, as RFC 9110 has them: one of them, or all.

/// What of an object is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of it: no range was asked for, or none that is understood.
    All,
    /// From the first of these on, up to before the second.
    Part(u64, u64),
    /// A range with nothing in it.
    Nothing,
}

/// Which part of so many bytes a `Range` header wants.
pub(super) fn wanted(header: &str, len: u64) -> Wanted {
    let Some(range) = header.strip_prefix("bytes=").map(str::trim) else {
        return Wanted::All;
    };
    let Some((first, last)) = range.split_once('-') else {
        return Wanted::All;
    };
    match (number(first), number(last)) {
        (Some(first), Some(last)) if last < first => Wanted::All,
        (Some(first), Some(last)) => part(first, last.saturating_add(1).min(len), len),
        (Some(first), None) if last.is_empty() => part(first, len, len),
        (None, Some(count)) if first.is_empty() => part(len.saturating_sub(count), len, len),
        _ => Wanted::All,
    }
}

fn part(from: u64, to: u64, len: u64) -> Wanted {
    if from < len && from < to {
        Wanted::Part(from, to)
    } else {
        Wanted::Nothing
    }
}

/// A number without a sign. One that is too large is very large.
fn number(digits: &str) -> Option<u64> {
    let all = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    all.then(|| digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_standard_has_them() {
        for (header, want) in [
            ("bytes=0-0", Wanted::Part(0, 1)),
            ("bytes=3-9", Wanted::Part(3, 10)),
            ("bytes=3-99999999999999999999999", Wanted::Part(3, 10)),
            ("bytes=3-", Wanted::Part(3, 10)),
            ("bytes=-3", Wanted::Part(7, 10)),
            ("bytes=-30", Wanted::Part(0, 10)),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=10-", Wanted::Nothing),
            ("bytes=10-12", Wanted::Nothing),
            ("bytes=99999999999999999999999-", Wanted::Nothing),
            ("bytes=5-3", Wanted::All),
            ("bytes=0-1,3-4", Wanted::All),
            ("bytes=+1-2", Wanted::All),
            ("bytes=-", Wanted::All),
            ("bytes=", Wanted::All),
            ("lines=0-1", Wanted::All),
            ("", Wanted::All),
        ] {
            assert_eq!(wanted(header, 10), want, "{header}");
        }
        assert_eq!(wanted("bytes=0-", 0), Wanted::Nothing);
    }
}
