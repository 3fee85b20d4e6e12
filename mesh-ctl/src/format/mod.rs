//! Writes answers: tables with Docker's columns, `--format` templates, JSON, `-q`.

pub(crate) mod human;
pub(crate) mod inspect;
pub(crate) mod lines;
pub(crate) mod template;

/// Writes a line to standard output. `println!` panics where a reader, such as `head`, has had enough.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::format::write(&format!("{}\n", format_args!($($text)*)))
    };
}

/// Writes a line to standard error; without a reader it is lost.
macro_rules! note {
    ($($text:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}

use std::io::Write;

use anyhow::Result;
use clap::Args;
use serde_json::{Map, Value};
use tabwriter::TabWriter;
use template::Template;

/// Narrowest column of a table, its gap included.
const MIN_COLUMN: usize = 10;
/// Blanks between columns.
const GAP: usize = 3;

/// The flags of every list command.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ListFlags {
    /// Only show ids; where there are none, what tells the lines apart
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Format: 'table', 'table TEMPLATE', 'json', or a Go template
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
    /// Filter, as key=value
    #[arg(short, long = "filter", value_name = "FILTER")]
    pub(crate) filters: Vec<String>,
}

impl ListFlags {
    /// The filters given.
    pub(crate) fn filters(&self) -> Result<mesh_api::Filters> {
        crate::flags::filters(&self.filters)
    }

    /// Whether a table is asked for.
    pub(crate) fn is_table(&self) -> bool {
        let format = self.format.as_deref().unwrap_or_default();
        !self.quiet && (["", "table"].contains(&format) || format.starts_with("table "))
    }
}

/// One line of a list: its fields by template name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Row(Map<String, Value>);

impl Row {
    /// An empty row.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds a field.
    #[must_use]
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }
}

/// How a list is shown unless told otherwise.
pub(crate) struct Listing {
    /// The template of a table's line, fields parted by `\t`.
    pub(crate) table: &'static str,
    /// Field names and their headings.
    pub(crate) headings: &'static [(&'static str, &'static str)],
    /// The template for `-q`.
    pub(crate) quiet: &'static str,
}

impl Listing {
    /// Writes rows to standard output as the flags say.
    pub(crate) fn print(&self, flags: &ListFlags, rows: Vec<Row>) -> Result<()> {
        Ok(write(&self.render(flags, rows)?)?)
    }

    /// The rows as the flags say.
    pub(crate) fn render(&self, flags: &ListFlags, rows: Vec<Row>) -> Result<String> {
        let format = match flags.format.as_deref() {
            _ if flags.quiet => self.quiet,
            None | Some("" | "table") => {
                return self.render_table(&Template::parse(self.table)?, rows);
            }
            Some("json") => "{{json .}}",
            Some(format) => match format.strip_prefix("table ") {
                Some(line) => return self.render_table(&Template::parse(line.trim_start())?, rows),
                None => format,
            },
        };
        let template = Template::parse(format)?;
        let mut out = String::new();
        for row in rows {
            out.push_str(&template.render_row(&row.0)?);
            out.push('\n');
        }
        Ok(out)
    }

    fn render_table(&self, template: &Template, rows: Vec<Row>) -> Result<String> {
        let mut headings = Map::new();
        for (name, heading) in self.headings {
            headings.insert((*name).to_owned(), Value::from(*heading));
        }
        let mut lines = template.render_row(&headings)?;
        lines.push('\n');
        for row in rows {
            lines.push_str(&template.render_row(&row.0)?);
            lines.push('\n');
        }
        align(&lines)
    }
}

/// Writes to standard output, at once.
pub(crate) fn write(text: impl AsRef<[u8]>) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_ref())?;
    out.flush()
}

/// Aligns lines of fields parted by tabs.
fn align(lines: &str) -> Result<String> {
    let mut writer = TabWriter::new(Vec::new())
        .minwidth(MIN_COLUMN - GAP)
        .padding(GAP);
    writer.write_all(lines.as_bytes())?;
    writer.flush()?;
    let bytes = writer
        .into_inner()
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok(String::from_utf8(bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: Listing = Listing {
        table: "{{.ID}}\t{{.Name}}\t{{.Driver}}",
        headings: &[("ID", "NETWORK ID"), ("Name", "NAME"), ("Driver", "DRIVER")],
        quiet: "{{.ID}}",
    };

    fn rows() -> Vec<Row> {
        vec![
            Row::new()
                .with("ID", "abc123def456")
                .with("Name", "ingress")
                .with("Driver", "overlay"),
            Row::new()
                .with("ID", "x")
                .with("Name", "n")
                .with("Driver", ""),
        ]
    }

    fn render(format: Option<&str>, quiet: bool) -> String {
        let flags = ListFlags {
            quiet,
            format: format.map(str::to_owned),
            filters: Vec::new(),
        };
        LISTING.render(&flags, rows()).expect("renders")
    }

    #[test]
    fn tables_are_dockers() {
        assert_eq!(
            render(None, false),
            "NETWORK ID     NAME      DRIVER\n\
             abc123def456   ingress   overlay\n\
             x              n         \n"
        );
    }

    #[test]
    fn table_templates_have_headings() {
        assert_eq!(
            render(Some(r"table {{.Name}}\t{{.ID}}"), false),
            "NAME      NETWORK ID\ningress   abc123def456\nn         x\n"
        );
    }

    #[test]
    fn templates_json_and_quiet() {
        assert_eq!(
            render(Some("{{.Name}}={{.ID}}"), false),
            "ingress=abc123def456\nn=x\n"
        );
        assert_eq!(render(None, true), "abc123def456\nx\n");
        assert_eq!(
            render(Some("json"), false),
            "{\"Driver\":\"overlay\",\"ID\":\"abc123def456\",\"Name\":\"ingress\"}\n\
             {\"Driver\":\"\",\"ID\":\"x\",\"Name\":\"n\"}\n"
        );
        assert_eq!(
            render(Some("{{json .Name}}"), false),
            "\"ingress\"\n\"n\"\n"
        );
    }

    #[test]
    fn unknown_fields_and_bad_templates_are_refused() {
        for format in ["{{.Nope}}", "{{.Name", "{{nope .Name}}"] {
            let flags = ListFlags {
                format: Some(format.to_owned()),
                ..ListFlags::default()
            };
            assert!(LISTING.render(&flags, rows()).is_err(), "{format}");
        }
    }
}
