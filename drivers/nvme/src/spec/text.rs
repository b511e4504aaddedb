//! Fixed-width ASCII fields of the Identify data structures (base 1.3).

/// Text of a fixed-width ASCII field: padding and what is not printable is left out.
#[must_use]
pub fn text(field: &[u8]) -> String {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    let clean = |byte: &u8| if (0x20..0x7f).contains(byte) { char::from(*byte) } else { '?' };
    field[..end].iter().map(clean).collect::<String>().trim_end().to_owned()
}

/// Fills a fixed-width ASCII field, padded with spaces (base 1.3: "ASCII string").
pub fn set_text(field: &mut [u8], text: &str) {
    field.fill(b' ');
    let printable = text.bytes().map(|byte| if (0x20..0x7f).contains(&byte) { byte } else { b'?' });
    field.iter_mut().zip(printable).for_each(|(to, from)| *to = from);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_fields_pad_and_trim() {
        let mut field = [0; 8];
        set_text(&mut field, "ab\u{e9}");
        assert_eq!(&field, b"ab??    ");
        assert_eq!(text(&field), "ab??");
        assert_eq!(text(b"nqn.x\0\0\0"), "nqn.x");
    }
}
