//! Go templates over JSON, with the functions Docker adds to them.

use anyhow::{Result, anyhow};
use gtmpl::{Context, FuncError, Value as Go};
use serde_json::{Map, Value};

/// A parsed template.
pub(crate) struct Template(gtmpl::Template);

impl Template {
    /// Parses a template; `\t` and `\n` may be written as such.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let text = text.replace("\\t", "\t").replace("\\n", "\n");
        let mut template = gtmpl::Template::default();
        template.add_funcs(&[
            ("json", json as gtmpl::Func),
            ("upper", |args| {
                text_function("upper", args, str::to_uppercase)
            }),
            ("lower", |args| {
                text_function("lower", args, str::to_lowercase)
            }),
            ("title", |args| {
                text_function("title", args, super::human::title)
            }),
            ("split", split),
            ("join", join),
            ("truncate", truncate),
            ("pad", pad),
        ]);
        template
            .parse(text)
            .map_err(|error| anyhow!("template parsing error: {error}"))?;
        Ok(Self(template))
    }

    /// Renders a row; a field it does not have is an error.
    pub(crate) fn render_row(&self, row: &Map<String, Value>) -> Result<String> {
        let fields = row
            .iter()
            .map(|(name, value)| (name.clone(), to_go(value)))
            .collect();
        self.render(Go::Object(fields))
    }

    /// Renders an object; a field it does not have is empty, because the agent leaves out what is empty.
    pub(crate) fn render_object(&self, object: &Value) -> Result<String> {
        self.render(to_go(object))
    }

    fn render(&self, value: Go) -> Result<String> {
        self.0.render(&Context::from(value)).map_err(|error| {
            let error = error.to_string();
            // gtmpl shows the whole object after the field it lacks.
            anyhow!(
                "template execution error: {}",
                error.split(" for {").next().unwrap_or(&error)
            )
        })
    }
}

fn to_go(value: &Value) -> Go {
    match value {
        Value::Null => Go::NoValue,
        Value::Bool(flag) => Go::Bool(*flag),
        Value::String(text) => Go::String(text.clone()),
        Value::Array(items) => Go::Array(items.iter().map(to_go).collect()),
        Value::Object(fields) => Go::Map(
            fields
                .iter()
                .map(|(name, value)| (name.clone(), to_go(value)))
                .collect(),
        ),
        Value::Number(number) => {
            if let Some(integer) = number.as_i64() {
                Go::from(integer)
            } else if let Some(integer) = number.as_u64() {
                Go::from(integer)
            } else {
                Go::from(number.as_f64().unwrap_or_default())
            }
        }
    }
}

fn to_json(value: &Go) -> Value {
    match value {
        Go::NoValue | Go::Nil | Go::Function(_) => Value::Null,
        Go::Bool(flag) => Value::Bool(*flag),
        Go::String(text) => Value::String(text.clone()),
        Go::Array(items) => Value::Array(items.iter().map(to_json).collect()),
        Go::Object(fields) | Go::Map(fields) => Value::Object(
            fields
                .iter()
                .map(|(name, value)| (name.clone(), to_json(value)))
                .collect(),
        ),
        Go::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(integer), _, _) => integer.into(),
            (None, Some(integer), _) => integer.into(),
            (None, None, float) => float.into(),
        },
    }
}

fn json(args: &[Go]) -> Result<Go, FuncError> {
    let [value] = args else {
        return Err(FuncError::ExactlyXArgs("json".to_owned(), 1));
    };
    Ok(Go::from(to_json(value).to_string()))
}

fn text(value: &Go) -> String {
    value.to_string()
}

fn text_function(
    name: &str,
    args: &[Go],
    function: impl Fn(&str) -> String,
) -> Result<Go, FuncError> {
    match args {
        [value] => Ok(Go::from(function(&text(value)))),
        _ => Err(FuncError::ExactlyXArgs(name.to_owned(), 1)),
    }
}

fn split(args: &[Go]) -> Result<Go, FuncError> {
    match args {
        [value, separator] => Ok(Go::Array(
            text(value).split(&text(separator)).map(Go::from).collect(),
        )),
        _ => Err(FuncError::ExactlyXArgs("split".to_owned(), 2)),
    }
}

fn join(args: &[Go]) -> Result<Go, FuncError> {
    match args {
        [Go::Array(items), separator] => {
            let items: Vec<String> = items.iter().map(text).collect();
            Ok(Go::from(items.join(&text(separator))))
        }
        [_, _] => Err(FuncError::Generic("join wants a list".to_owned())),
        _ => Err(FuncError::ExactlyXArgs("join".to_owned(), 2)),
    }
}

fn count(name: &str, value: &Go) -> Result<usize, FuncError> {
    let count = match value {
        Go::Number(number) => number.as_u64(),
        _ => None,
    };
    count
        .and_then(|count| usize::try_from(count).ok())
        .ok_or_else(|| FuncError::Generic(format!("{name} wants a count")))
}

fn truncate(args: &[Go]) -> Result<Go, FuncError> {
    match args {
        [value, length] => {
            let length = count("truncate", length)?;
            Ok(Go::from(
                text(value).chars().take(length).collect::<String>(),
            ))
        }
        _ => Err(FuncError::ExactlyXArgs("truncate".to_owned(), 2)),
    }
}

fn pad(args: &[Go]) -> Result<Go, FuncError> {
    match args {
        [value, before, after] => {
            let value = text(value);
            if value.is_empty() {
                return Ok(Go::from(value));
            }
            let (before, after) = (count("pad", before)?, count("pad", after)?);
            Ok(Go::from(format!(
                "{}{value}{}",
                " ".repeat(before),
                " ".repeat(after)
            )))
        }
        _ => Err(FuncError::ExactlyXArgs("pad".to_owned(), 3)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn dockers_functions() {
        let object = json!({
            "Name": "web", "List": ["a", "b"], "Spec": {"Labels": {"k": "v"}, "N": 3, "F": 0.5}
        });
        for (template, expected) in [
            ("{{.Name}}", "web"),
            ("{{upper .Name}}", "WEB"),
            ("{{title .Name}}", "Web"),
            ("{{join .List \",\"}}", "a,b"),
            ("{{json .Spec}}", r#"{"F":0.5,"Labels":{"k":"v"},"N":3}"#),
            ("{{index .Spec.Labels \"k\"}}", "v"),
            ("{{range .List}}<{{.}}>{{end}}", "<a><b>"),
            ("{{len .List}} {{.Spec.N}}", "2 3"),
            ("{{truncate .Name 2}}|{{pad .Name 1 2}}|", "we| web  |"),
            ("{{if .Missing}}yes{{else}}no{{end}}", "no"),
            ("{{if eq .Name \"web\"}}y{{end}}", "y"),
        ] {
            let rendered = Template::parse(template)
                .expect(template)
                .render_object(&object);
            assert_eq!(rendered.expect(template), expected, "{template}");
        }
    }
}
