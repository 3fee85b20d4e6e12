//! One line of comma separated `key=value` fields; a field with commas stands in double quotes.

use anyhow::{Result, bail};

/// The fields as (key in lower case, value); a key without `=` has none.
pub(crate) fn fields(text: &str) -> Result<Vec<(String, Option<String>)>> {
    let mut fields = Vec::new();
    let mut field = String::new();
    let mut quoted = false;
    for letter in text.chars() {
        match letter {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            _ => field.push(letter),
        }
    }
    if quoted {
        bail!("invalid argument {text:?}: a double quote is not closed");
    }
    fields.push(field);
    Ok(fields
        .into_iter()
        .map(|field| match field.split_once('=') {
            Some((key, value)) => (key.trim().to_ascii_lowercase(), Some(value.to_owned())),
            None => (field.trim().to_ascii_lowercase(), None),
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_keep_commas() {
        let read = fields(r#"type=volume,"volume-opt=o=addr=1.2.3.4,rw",ro"#).expect("fields");
        assert_eq!(
            read[1],
            (
                "volume-opt".to_owned(),
                Some("o=addr=1.2.3.4,rw".to_owned())
            )
        );
        assert_eq!(read[2], ("ro".to_owned(), None));
        assert!(fields("a=\"b").is_err());
    }
}
