//! `doctor`

use std::process::ExitCode;

use anyhow::Result;
use mesh_api::{
    Client,
    mesh::{Finding, Level},
};

use crate::format::{ListFlags, Listing, Row};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    list: ListFlags,
}

const LISTING: Listing = Listing {
    table: "{{.Result}}\t{{.Node}}\t{{.Check}}\t{{.Subject}}\t{{.Found}}\t{{.Remedy}}",
    headings: &[
        ("Result", "RESULT"),
        ("Node", "NODE"),
        ("Check", "CHECK"),
        ("Subject", "SUBJECT"),
        ("Found", "FOUND"),
        ("Remedy", "WHAT TO DO"),
    ],
    quiet: "{{.Result}} {{.Node}} {{.Check}} {{.Subject}}",
};

pub(crate) async fn run(client: &Client, args: Args) -> Result<ExitCode> {
    let filters = args.list.filters()?;
    filters.validate(&["result", "node", "check"])?;
    let findings = client.doctor().await?;
    let shown = findings.iter().filter(|finding| {
        filters.matches("result", |result| result == finding.level.name())
            && filters.matches("node", |node| node == finding.node)
            && filters.matches("check", |check| check == finding.check)
    });
    LISTING.print(&args.list, shown.map(row).collect())?;
    note!("{}", summary(&findings));
    // Whatever is shown: a fault is a fault.
    Ok(if worst(&findings) == Some(Level::Fault) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn worst(findings: &[Finding]) -> Option<Level> {
    findings.iter().map(|finding| finding.level).max()
}

fn summary(findings: &[Finding]) -> String {
    let count = |level| findings.iter().filter(|f| f.level == level).count();
    let some =
        |count: usize, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
    format!(
        "{}: {} ok, {}, {}",
        some(findings.len(), "check"),
        count(Level::Ok),
        some(count(Level::Warning), "warning"),
        some(count(Level::Fault), "fault")
    )
}

fn row(finding: &Finding) -> Row {
    Row::new()
        .with("Result", finding.level.name())
        .with("Node", finding.node.as_str())
        .with("Check", finding.check.as_str())
        .with("Subject", finding.subject.as_str())
        .with("Found", finding.found.as_str())
        .with("Remedy", finding.remedy.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        let finding = |level, remedy: &str| Finding {
            level,
            node: "n1".into(),
            check: "path".into(),
            subject: "to n2".into(),
            found: "as said".into(),
            remedy: remedy.into(),
        };
        let findings = [
            finding(Level::Ok, ""),
            finding(Level::Warning, "look"),
            finding(Level::Fault, "mend it"),
        ];
        assert_eq!(
            LISTING
                .render(&ListFlags::default(), findings.iter().map(row).collect())
                .expect("renders"),
            "RESULT    NODE      CHECK     SUBJECT   FOUND     WHAT TO DO\n\
             ok        n1        path      to n2     as said   \n\
             warning   n1        path      to n2     as said   look\n\
             fault     n1        path      to n2     as said   mend it\n"
        );
        assert_eq!(summary(&findings), "3 checks: 1 ok, 1 warning, 1 fault");
        assert_eq!(worst(&findings), Some(Level::Fault));
        assert_eq!(worst(&findings[..2]), Some(Level::Warning));
    }
}
