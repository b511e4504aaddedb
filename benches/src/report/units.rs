//! Numbers with units, as people read them.

/// Nanoseconds: `412 ns`, `13.7 µs`, `2.50 ms`, `1.20 s`; three or four digits each.
#[must_use]
pub fn time(ns: f64) -> String {
    if ns < 1_000.0 {
        format!("{ns:.0} ns")
    } else if ns < 1_000_000.0 {
        format!("{} µs", three_digits(ns / 1e3))
    } else if ns < 1_000_000_000.0 {
        format!("{} ms", three_digits(ns / 1e6))
    } else {
        format!("{} s", three_digits(ns / 1e9))
    }
}

/// A round time, as an axis shows it: `300 ns`, `1 µs`, `1.5 ms`.
#[must_use]
pub fn round_time(ns: f64) -> String {
    let text = time(ns);
    let (number, unit) = text.split_once(' ').unwrap_or((&text, ""));
    let number = match number.contains('.') {
        true => number.trim_end_matches('0').trim_end_matches('.'),
        false => number,
    };
    format!("{number} {unit}")
}

/// A rate or a count: `950`, `12.3 k`, `1.25 M`.
#[must_use]
pub fn count(number: f64) -> String {
    if number < 1_000.0 {
        format!("{number:.0}")
    } else if number < 1_000_000.0 {
        format!("{} k", three_digits(number / 1e3))
    } else {
        format!("{} M", three_digits(number / 1e6))
    }
}

/// Bytes: `512 B`, `64.0 KiB`, `272 MiB`, `1.50 GiB`.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    let mut number = bytes as f64;
    if number < 1024.0 {
        return format!("{bytes} B");
    }
    for unit in ["KiB", "MiB", "GiB"] {
        number /= 1024.0;
        if number < 1024.0 {
            return format!("{} {unit}", three_digits(number));
        }
    }
    format!("{} TiB", three_digits(number / 1024.0))
}

/// A ratio: `1.46×`, `14.2×`, `120×`.
#[must_use]
pub fn times(ratio: f64) -> String {
    format!("{}×", three_digits(ratio))
}

/// A share of a whole: `62.1 %`, `0.03 %`.
#[must_use]
pub fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent > 0.0 && percent < 0.01 {
        "<0.01 %".to_owned()
    } else if percent < 1.0 {
        format!("{percent:.2} %")
    } else {
        format!("{percent:.1} %")
    }
}

/// A change: `+3.1 %`, `-12.0 %`.
#[must_use]
pub fn change(share: f64) -> String {
    format!("{:+.1} %", share * 100.0)
}

fn three_digits(number: f64) -> String {
    if number < 9.995 {
        format!("{number:.2}")
    } else if number < 99.95 {
        format!("{number:.1}")
    } else {
        format!("{number:.0}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_people_read_them() {
        assert_eq!(time(412.0), "412 ns");
        assert_eq!(time(13_700.0), "13.7 µs");
        assert_eq!(time(2.5e6), "2.50 ms");
        assert_eq!(time(120e9), "120 s");
        assert_eq!(round_time(300.0), "300 ns");
        assert_eq!(round_time(30_000.0), "30 µs");
        assert_eq!(round_time(1_500_000.0), "1.5 ms");
        assert_eq!(count(999.0), "999");
        assert_eq!(count(1_254_000.0), "1.25 M");
        assert_eq!(bytes(17), "17 B");
        assert_eq!(bytes(272 << 20), "272 MiB");
        assert_eq!(bytes(3 << 40), "3.00 TiB");
        assert_eq!(times(1.456), "1.46×");
        assert_eq!(percent(0.621), "62.1 %");
        assert_eq!(percent(0.000_000_1), "<0.01 %");
        assert_eq!(percent(0.0), "0.00 %");
        assert_eq!(change(-0.12), "-12.0 %");
        assert_eq!(change(0.031), "+3.1 %");
    }
}
