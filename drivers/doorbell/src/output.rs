//! What goes to standard output, and how a failure becomes one line.

use std::io::{self, Write};

use anyhow::Result;
use serde::Serialize;

/// Writes text to standard output at once.
///
/// # Errors
/// If nobody reads it any more, or the disk is full.
pub(crate) fn print(text: impl AsRef<[u8]>) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_ref())?;
    Ok(out.flush()?)
}

/// Writes a value to standard output as JSON, with a line break behind it.
///
/// # Errors
/// As [`print`].
pub(crate) fn print_json(value: &impl Serialize) -> Result<()> {
    print(serde_json::to_string_pretty(value)? + "\n")
}

/// True if the failure is only that the reader of standard output has gone: `doorbell status | head`.
pub(crate) fn reader_is_gone(error: &anyhow::Error) -> bool {
    let broken = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    // Only an error of `print` is an io::Error on the outside; those of sockets carry a context.
    error.chain().count() == 1 && error.downcast_ref::<io::Error>().is_some_and(broken)
}

/// A failure as one line: each cause is added unless the text before already says it.
pub(crate) fn one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause_text);
        }
        if says_everything(cause) {
            break;
        }
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ")
}

/// Errors of the framework tell the whole story themselves, with what to do about it; what is
/// behind them would only repeat it.
fn says_everything(error: &(dyn std::error::Error + 'static)) -> bool {
    use doorbell::broker::BrokerError;
    use doorbell::client::ClientError;
    use doorbell_edu::EduError;
    use doorbell_nvme::{IoError, NvmeError};
    error.is::<ClientError>()
        || error.is::<BrokerError>()
        || error.is::<NvmeError>()
        || error.is::<IoError>()
        || error.is::<EduError>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{Context, anyhow};

    #[test]
    fn causes_make_one_line_without_repetition() {
        let error = Err::<(), _>(anyhow!("the disk\n is full"))
            .context("writing x: the disk\n is full")
            .context("making the image")
            .unwrap_err();
        assert_eq!(one_line(&error), "making the image: writing x: the disk is full");
    }

    #[test]
    fn only_a_closed_standard_output_is_no_failure() {
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(reader_is_gone(&anyhow::Error::from(broken())));
        assert!(!reader_is_gone(&anyhow::Error::from(broken()).context("writing to a broker")));
        assert!(!reader_is_gone(&anyhow!("anything else")));
    }
}
