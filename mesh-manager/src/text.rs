//! Texts that others write.

/// Cuts a text to so many bytes, or a few less: between two characters.
pub(crate) fn cut(text: &mut String, longest: usize) {
    if text.len() > longest {
        let end = (0..=longest).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn texts_are_cut_between_two_characters() {
        for (text, longest, left) in [
            ("", 0, ""),
            ("abc", 3, "abc"),
            ("abcd", 3, "abc"),
            ("ab\u{20ac}", 5, "ab\u{20ac}"),
            ("ab\u{20ac}", 4, "ab"),
            ("ab\u{20ac}", 3, "ab"),
            ("\u{20ac}", 1, ""),
        ] {
            let mut text = text.to_owned();
            cut(&mut text, longest);
            assert_eq!(text, left);
        }
    }
}
