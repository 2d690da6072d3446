//! Dates and times as people write them, in UTC unless they say otherwise.

/// Days from 1970-01-01 to a date of the Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> i64 {
    // Howard Hinnant's days_from_civil.
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let yoe = y.rem_euclid(400);
    let mp = if month > 2 { month - 3 } else { month + 9 };
    let doy = (153 * mp + 2) / 5 + day - 1;
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    era * 146_097 + doe - 719_468
}

/// Year, month and day of a day counted from 1970-01-01.
fn date(days: i64) -> (i64, i64, i64) {
    // Howard Hinnant's civil_from_days; beyond what it can hold nobody reads a date.
    let z = days.clamp(-1_000_000_000, 1_000_000_000) + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month, day)
}

/// A time in seconds since 1970, as `2026-11-21 07:55:03Z`.
#[must_use]
pub fn show(seconds: i64) -> String {
    let (year, month, day) = date(seconds.div_euclid(86_400));
    let s = seconds.rem_euclid(86_400);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}Z",
        s / 3_600,
        s / 60 % 60,
        s % 60
    )
}

/// A number of so many digits at the start, and the rest.
fn digits(text: &str, n: usize) -> Option<(i64, &str)> {
    let (head, rest) = text.split_at_checked(n)?;
    let all = head.bytes().all(|b| b.is_ascii_digit());
    all.then(|| head.parse().ok().map(|v| (v, rest)))?
}

/// The first millisecond since 1970 that a text covers, and how many it does: `2026-11-21` is a
/// day, `2026-11-21T10:00` a minute. Without a zone it is UTC. `None`: not a time.
fn moment(text: &str) -> Option<(i64, i64)> {
    let (year, rest) = digits(text, 4)?;
    let (month, rest) = digits(rest.strip_prefix('-')?, 2)?;
    let (day, rest) = digits(rest.strip_prefix('-')?, 2)?;
    let in_month = |d: i64| date(days(year, month, d)) == (year, month, d);
    if !(1..=12).contains(&month) || day < 1 || !in_month(day) {
        return None;
    }
    let start = days(year, month, day) * 86_400_000;
    if rest.is_empty() {
        return Some((start, 86_400_000));
    }
    let (hour, rest) = digits(rest.strip_prefix(['T', 't', ' ', '_'])?, 2)?;
    let (minute, mut rest) = digits(rest.strip_prefix(':')?, 2)?;
    let mut at = start + (hour * 60 + minute) * 60_000;
    let mut span = 60_000;
    let mut second = 0;
    if let Some(more) = rest.strip_prefix(':') {
        (second, rest) = digits(more, 2)?;
        at += second * 1_000;
        span = 1_000;
        if let Some(more) = rest.strip_prefix('.') {
            let n = more.bytes().take_while(u8::is_ascii_digit).count();
            let (fraction, after) = more.split_at_checked(n)?;
            let ms: String = fraction.chars().chain("000".chars()).take(3).collect();
            at += ms.parse::<i64>().ok().filter(|_| n > 0)?;
            (rest, span) = (after, 1);
        }
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    Some((at - zone(rest)? * 60_000, span))
}

/// Minutes by which a zone is ahead of UTC.
fn zone(text: &str) -> Option<i64> {
    if matches!(text, "" | "Z" | "z") {
        return Some(0);
    }
    let (sign, rest) = match text.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let (hours, rest) = digits(rest, 2)?;
    let (minutes, rest) = digits(rest.strip_prefix(':').unwrap_or(rest), 2)?;
    let fits = rest.is_empty() && hours < 24 && minutes < 60;
    fits.then_some(sign * (hours * 60 + minutes))
}

/// Milliseconds in `10min`, `1h`, `30s`, `2d`, `3w`, also with `ago` behind.
fn ago(text: &str) -> Option<i64> {
    let text = text.strip_suffix("ago").unwrap_or(text);
    let text = text.trim_end_matches([' ', '-', '_']);
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.get(number.len()..)? {
        "s" | "sec" | "second" | "seconds" => 1_000,
        "m" | "min" | "minute" | "minutes" => 60_000,
        "h" | "hour" | "hours" => 3_600_000,
        "d" | "day" | "days" => 86_400_000,
        "w" | "week" | "weeks" => 604_800_000,
        _ => return None,
    };
    let number = number.trim_end_matches([' ', '-', '_']);
    let short = !number.is_empty() && number.len() <= 6;
    // A longer one with a `d` behind is an abbreviated commit id.
    let all = short && number.bytes().all(|b| b.is_ascii_digit());
    all.then(|| number.parse::<i64>().ok()?.checked_mul(unit))?
}

/// The first and the last millisecond since 1970 that a text means, where it is `now` now:
/// `2026-11-21T10:00`, with seconds, fraction and zone of RFC 3339 or without, `2026-11-21`,
/// `10min`, `1h ago`. `None`: not a time.
#[must_use]
pub fn parse(text: &str, now: i64) -> Option<(i64, i64)> {
    if let Some(span) = ago(text) {
        return now.checked_sub(span).map(|at| (at, at));
    }
    let (at, span) = moment(text)?;
    Some((at, at + span - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_date() {
        assert_eq!(show(0), "1970-01-01 00:00:00Z");
        assert_eq!(show(951_827_696), "2000-02-29 12:34:56Z");
        assert_eq!(show(-1), "1969-12-31 23:59:59Z");
    }

    #[test]
    fn what_is_shown_is_read_back() {
        for s in [0, 951_827_696, -1, 1_795_247_703, 4_102_444_799] {
            assert_eq!(parse(&show(s), 0), Some((s * 1000, s * 1000 + 999)), "{s}");
        }
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        let ten = 1_795_255_200_000;
        for (text, at) in [
            ("2026-11-21T10:00:00Z", ten + 999),
            ("2026-11-21T10:00:00.25Z", ten + 250),
            ("2026-11-21T10:00", ten + 59_999),
            ("2026-11-21 10:00", ten + 59_999),
            ("2026-11-21t11:30:00+01:30", ten + 999),
            ("2026-11-21T05:00-0500", ten + 59_999),
            ("2026-11-21", ten + 14 * 3_600_000 - 1),
            ("10min", ten - 600_000),
            ("10 minutes ago", ten - 600_000),
            ("1h-ago", ten - 3_600_000),
            ("0s", ten),
            ("999999w", ten - 999_999 * 604_800_000),
        ] {
            assert_eq!(parse(text, ten).map(|t| t.1), Some(at), "{text}");
        }
        for text in [
            "",
            "h",
            "1",
            "1y",
            "-1h",
            "1.5h",
            "2026",
            "2026-02-29",
            "2026-13-01",
            "2026-00-10",
            "2026-11-21T24:00",
            "2026-11-21T10",
            "2026-11-21T10:60",
            "2026-11-21T10:00:00.Z",
            "2026-11-21T10:00+25:00",
            "2026-11-21T10:00x",
            "1234567d",
            "é1h",
            "99999999999999h",
        ] {
            assert_eq!(parse(text, ten), None, "{text}");
        }
    }
}
