//! Writes whole objects: as JSON, or with a template.

use anyhow::Result;
use mesh_api::spelling;
use serde::Serialize;

use super::template::Template;

/// Writes objects to standard output; `format` is `json` or a Go template.
pub(crate) fn print<T: Serialize>(objects: &[T], format: Option<&str>) -> Result<()> {
    Ok(super::write(&render(objects, format)?)?)
}

fn render<T: Serialize>(objects: &[T], format: Option<&str>) -> Result<String> {
    match format {
        None | Some("") => indented(objects),
        Some("json") => Ok(format!(
            "{}\n",
            String::from_utf8(spelling::to_vec(&objects)?)?
        )),
        Some(format) => {
            let template = Template::parse(format)?;
            let mut out = String::new();
            for object in objects {
                out.push_str(&template.render_object(&spelling::to_value(object)?)?);
                out.push('\n');
            }
            Ok(out)
        }
    }
}

/// One object; `format` is `json` or a Go template.
pub(crate) fn one<T: Serialize>(object: &T, format: &str) -> Result<String> {
    match format {
        "json" => Ok(serde_json::to_string(object)?),
        format => Template::parse(format)?.render_object(&serde_json::to_value(object)?),
    }
}

/// JSON with Docker's four blanks of indentation.
fn indented<T: Serialize + ?Sized>(value: &T) -> Result<String> {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    value.serialize(&mut serde_json::Serializer::with_formatter(
        &mut out, formatter,
    ))?;
    out.push(b'\n');
    spelling::respell(&mut out);
    Ok(String::from_utf8(out)?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn shapes() {
        let objects = [json!({"ID": "a", "N": {"x": 1}})];
        assert_eq!(
            render(&objects, None).expect("indents"),
            "[\n    {\n        \"ID\": \"a\",\n        \"N\": {\n            \"x\": 1\n        }\n    }\n]\n"
        );
        assert_eq!(render(&objects, Some("{{.N.x}}")).expect("renders"), "1\n");
    }
}
