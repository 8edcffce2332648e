//! Numbers and times as people read them.

use super::UpstreamState;

/// With a thin gap between thousands: `1 234 567`.
pub(super) fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3 * 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(GAP);
        }
        out.push(digit);
    }
    out
}

/// A count with its noun, which takes an s when there are several.
pub(super) fn counted(value: u64, noun: &str) -> String {
    let end = if value == 1 { "" } else { "s" };
    format!("{} {noun}{end}", number(value))
}

/// A length of time in its two largest units: `3 d 4 h`, `12 min`, `40 s`.
pub(super) fn span(seconds: i64) -> String {
    let seconds = seconds.unsigned_abs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (10.., _, _) | (1.., 0, _) => format!("{} d", number(days)),
        (1.., _, _) => format!("{days} d {hours} h"),
        (0, 1.., 0) => format!("{hours} h"),
        (0, 1.., _) => format!("{hours} h {minutes} min"),
        (0, 0, 1..) => format!("{minutes} min"),
        _ => format!("{seconds} s"),
    }
}

/// How long ago a time was.
pub(super) fn ago(then: i64, now: i64) -> String {
    match now.saturating_sub(then) {
        i64::MIN..=14 => "just now".to_owned(),
        seconds => format!("{} ago", span(seconds)),
    }
}

/// For how long something has lasted.
pub(super) fn lasting(since: i64, now: i64) -> String {
    match now.saturating_sub(since) {
        i64::MIN..=14 => "since just now".to_owned(),
        seconds => format!("for {}", span(seconds)),
    }
}

/// How long it is until then, or has been.
pub(super) fn until(then: i64, now: i64) -> String {
    match then.saturating_sub(now) {
        left @ 1.. => format!("in {}", span(left)),
        past => format!("{} ago", span(past)),
    }
}

/// `2026-11-27 18:44 UTC`.
pub(super) fn date(unix: i64) -> String {
    let Ok(at) = time::OffsetDateTime::from_unix_timestamp(unix) else {
        return format!("{unix} (Unix time)");
    };
    let (month, day, hour, minute) = (u8::from(at.month()), at.day(), at.hour(), at.minute());
    format!("{:04}-{month:02}-{day:02} {hour:02}:{minute:02} UTC", at.year())
}

/// A latency with three digits and its unit: `240 µs`, `1.25 ms`, `2.50 s`.
pub(super) fn latency(seconds: f64) -> String {
    let (value, unit) = if seconds < 1e-3 {
        (seconds * 1e6, "µs")
    } else if seconds < 1.0 {
        (seconds * 1e3, "ms")
    } else {
        (seconds, "s")
    };
    if value >= 100.0 || unit == "µs" {
        format!("{value:.0} {unit}")
    } else if value >= 10.0 {
        format!("{value:.1} {unit}")
    } else {
        format!("{value:.2} {unit}")
    }
}

/// A rate a second: `0`, `0.4`, `12`, `4 321`.
pub(super) fn rate(value: f64) -> String {
    if value >= 10.0 || value == 0.0 {
        number(whole(value.round()))
    } else {
        format!("{value:.1}")
    }
}

/// `34.2 MiB`.
pub(super) fn bytes(value: u64) -> String {
    let mebibytes = real(value) / 1_048_576.0;
    if mebibytes < 1024.0 {
        format!("{mebibytes:.1} MiB")
    } else {
        format!("{:.1} GiB", mebibytes / 1024.0)
    }
}

/// `83 %`.
pub(super) fn percent(part: f64, of: f64) -> String {
    format!("{:.0} %", 100.0 * part / of)
}

/// The state of an upstream in words.
pub(super) fn state(state: UpstreamState) -> &'static str {
    match state {
        UpstreamState::Unknown => "not checked yet",
        UpstreamState::Up => "up",
        UpstreamState::NotReady => "not ready",
        UpstreamState::Down => "down",
    }
}

/// A name, or what stands for somebody without one.
pub(super) fn user(name: &str) -> &str {
    if name.is_empty() { "strangers" } else { name }
}

/// A whole number of something that is counted in doubles; what is none is nought.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast of a double saturates, and not-a-number becomes nought"
)]
pub(super) fn whole(value: f64) -> u64 {
    value as u64
}

/// Seconds of Unix time, as Prometheus has them.
#[allow(
    clippy::cast_possible_truncation,
    reason = "a cast of a double saturates, and not-a-number becomes nought"
)]
pub(super) fn seconds(value: f64) -> i64 {
    value as i64
}

#[allow(clippy::cast_precision_loss, reason = "for display")]
pub(super) fn real(value: u64) -> f64 {
    value as f64
}

pub(super) fn ratio(part: u64, of: u64) -> f64 {
    real(part) / real(of)
}

/// NARROW NO-BREAK SPACE, as ISO 80000 separates thousands.
const GAP: char = '\u{202f}';

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_gaps() {
        assert_eq!(number(0), "0");
        assert_eq!(number(999), "999");
        assert_eq!(number(1_000), "1\u{202f}000");
        assert_eq!(number(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(counted(1, "login"), "1 login");
        assert_eq!(counted(2, "login"), "2 logins");
    }

    #[test]
    fn times_have_two_units() {
        let cases = [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3_600, "1 h"),
            (3_660, "1 h 1 min"),
            (86_400, "1 d"),
            (90_000, "1 d 1 h"),
            (864_000, "10 d"),
            (-86_400, "1 d"),
        ];
        for (seconds, text) in cases {
            assert_eq!(span(seconds), text);
        }
        assert_eq!(ago(100, 103), "just now");
        assert_eq!(ago(0, 120), "2 min ago");
        assert_eq!(until(120, 0), "in 2 min");
        assert_eq!(until(0, 120), "2 min ago");
        assert_eq!(date(1_795_805_040), "2026-11-27 18:44 UTC");
        assert_eq!(date(i64::MAX), format!("{} (Unix time)", i64::MAX));
        assert_eq!(ago(i64::MIN, i64::MAX), format!("{} ago", span(i64::MAX)));
    }

    #[test]
    fn latencies_have_three_digits() {
        let cases = [
            (0.000_05, "50 µs"),
            (0.000_999, "999 µs"),
            (0.001_25, "1.25 ms"),
            (0.0123, "12.3 ms"),
            (0.25, "250 ms"),
            (2.5, "2.50 s"),
        ];
        for (seconds, text) in cases {
            assert_eq!(latency(seconds), text);
        }
        assert_eq!(rate(0.0), "0");
        assert_eq!(rate(0.44), "0.4");
        assert_eq!(rate(12.6), "13");
        assert_eq!(bytes(35_861_299), "34.2 MiB");
    }
}
