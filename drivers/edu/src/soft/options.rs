//! The `KEY=VALUE` options of `soft:edu`.

use std::time::Duration;

/// What the model is to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Options {
    /// How long a factorial or a transfer takes.
    pub(super) latency: Duration,
    /// False if it never interrupts.
    pub(super) interrupts: bool,
    /// False if the liveness register does not invert.
    pub(super) alive: bool,
    /// What the identification register reads.
    pub(super) id: u32,
    /// True if a transfer never ends.
    pub(super) stuck: bool,
}

impl Default for Options {
    fn default() -> Self {
        let latency = Duration::from_micros(100);
        Self { latency, interrupts: true, alive: true, id: 0x0100_00ed, stuck: false }
    }
}

impl Options {
    /// # Errors
    /// One line that says which option is wrong, and what it takes.
    pub(super) fn parse(options: &[(String, String)]) -> Result<Self, String> {
        let mut parsed = Self::default();
        for (key, value) in options {
            let bad = |want: &str| Err(format!("{key}={value}: {want}"));
            match (key.as_str(), value.as_str()) {
                ("latency", _) => match duration(value) {
                    Some(latency) => parsed.latency = latency,
                    None => return bad("a time up to 10s, as in 500us, 20ms or 1s"),
                },
                ("interrupt", "never") => parsed.interrupts = false,
                ("interrupt", _) => return bad("the only choice is never"),
                ("liveness", "wrong") => parsed.alive = false,
                ("liveness", _) => return bad("the only choice is wrong"),
                ("id", "wrong") => parsed.id = 0x0100_0bad,
                ("id", "gone") => parsed.id = u32::MAX,
                ("id", _) => return bad("the choices are wrong and gone"),
                ("dma", "stuck") => parsed.stuck = true,
                ("dma", _) => return bad("the only choice is stuck"),
                _ => {
                    return Err(format!(
                        "option {key}: the software edu device has no such option; there are \
                         latency, interrupt, liveness, id, dma"
                    ));
                }
            }
        }
        Ok(parsed)
    }
}

/// A time of up to ten seconds: `500us`, `20ms`, `1s`.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let duration = match unit {
        "us" => Duration::from_micros(number),
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        _ => return None,
    };
    (duration <= Duration::from_secs(10)).then_some(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(key: &str, value: &str) -> Result<Options, String> {
        Options::parse(&[(key.to_owned(), value.to_owned())])
    }

    #[test]
    fn times_have_units_and_a_limit() {
        assert_eq!(parse("latency", "20ms").unwrap().latency, Duration::from_millis(20));
        for bad in ["20", "ms", "11s", "-1s", "1h", "99999999999999999999s", ""] {
            let error = parse("latency", bad).unwrap_err();
            assert!(error.starts_with(&format!("latency={bad}: a time")), "{error}");
        }
    }

    #[test]
    fn other_options_say_what_there_is() {
        assert!(!parse("interrupt", "never").unwrap().interrupts);
        assert!(parse("interrupt", "seldom").unwrap_err().contains("never"));
        assert!(parse("speed", "1").unwrap_err().contains("there are latency, interrupt"));
    }
}
