//! Data between a device and a file, standard input or output, or a terminal.

use std::fmt::Write as _;
use std::fs;
use std::io::{IsTerminal, Read, Write};
use std::path::Path;

use anyhow::{Context, Result};

use crate::output;

/// All of a file, or of standard input.
///
/// # Errors
/// If it cannot be read.
pub(crate) fn read_all(file: Option<&Path>) -> Result<Vec<u8>> {
    if let Some(file) = file {
        return fs::read(file).with_context(|| format!("cannot read {}", file.display()));
    }
    let mut data = Vec::new();
    std::io::stdin().lock().read_to_end(&mut data).context("reading standard input")?;
    Ok(data)
}

/// Where data that was read from a device goes.
#[derive(Debug)]
pub(crate) enum Sink {
    File(fs::File),
    Output,
    Terminal,
}

impl Sink {
    /// A file, or standard output: as a hex dump if that is a terminal.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub(crate) fn open(file: Option<&Path>) -> Result<Self> {
        Ok(match file {
            Some(file) => Self::File(
                fs::File::create(file)
                    .with_context(|| format!("cannot write {}", file.display()))?,
            ),
            None if std::io::stdout().is_terminal() => Self::Terminal,
            None => Self::Output,
        })
    }

    /// Takes the next bytes; the dump shows them at `offset`.
    ///
    /// # Errors
    /// If they cannot be written.
    pub(crate) fn put(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        match self {
            Self::File(file) => file.write_all(data).context("writing the file"),
            Self::Output => output::print(data),
            Self::Terminal => output::print(hex_dump(offset, data)),
        }
    }
}

/// Bytes as people look at them: offset, hexadecimal, letters; repeated lines as one star.
fn hex_dump(offset: u64, data: &[u8]) -> String {
    let mut text = String::new();
    let mut last: Option<&[u8]> = None;
    let mut starred = false;
    for (row, line) in data.chunks(16).enumerate() {
        if last == Some(line) {
            if !starred {
                text.push_str("*\n");
            }
            starred = true;
            continue;
        }
        (last, starred) = (Some(line), false);
        let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        let letter = |byte: &u8| {
            if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '.' }
        };
        let letters: String = line.iter().map(letter).collect();
        let at = offset + row as u64 * 16;
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{at:08x}  {:<47}  {letters}", hex.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hex_dump_shows_offsets_and_leaves_out_repetition() {
        let mut data = vec![0; 64];
        data[..5].copy_from_slice(b"hello");
        let dump = hex_dump(0x1000, &data);
        let lines: Vec<_> = dump.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(
            lines[0].starts_with("00001000  68 65 6c 6c 6f 00")
                && lines[0].ends_with("hello...........")
        );
        assert_eq!(lines[2], "*");
    }
}
