//! `volume ls`

use anyhow::Result;
use mesh_api::{Client, engine::Volume};

use crate::{
    format::{ListFlags, Listing, Row, human},
    view::{label_text, word},
};

/// What Docker writes for what only volumes of clusters have.
const NONE: &str = "N/A";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    list: ListFlags,
}

const LISTING: Listing = Listing {
    table: "{{.Driver}}\t{{.Name}}",
    headings: &[
        ("Driver", "DRIVER"),
        ("Name", "VOLUME NAME"),
        ("Scope", "SCOPE"),
        ("Mountpoint", "MOUNTPOINT"),
        ("Labels", "LABELS"),
        ("Links", "LINKS"),
        ("Size", "SIZE"),
        ("Availability", "AVAILABILITY"),
        ("Group", "GROUP"),
        ("Status", "STATUS"),
    ],
    quiet: "{{.Name}}",
};

pub(crate) async fn run(client: &Client, args: Args) -> Result<()> {
    let mut volumes = client.volumes(&args.list.filters()?).await?;
    volumes.sort_by(|a, b| human::natural_cmp(&a.name, &b.name));
    LISTING.print(&args.list, volumes.iter().map(row).collect())
}

fn row(volume: &Volume) -> Row {
    let row = Row::new()
        .with("Driver", volume.driver.as_str())
        .with("Name", volume.name.as_str())
        .with("Scope", word(volume.scope))
        .with("Mountpoint", volume.mountpoint.as_str())
        .with("Labels", label_text(Some(&volume.labels)));
    let none = ["Links", "Size", "Availability", "Group", "Status"];
    none.into_iter().fold(row, |row, name| row.with(name, NONE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(flags: &ListFlags) -> String {
        let volume = |name: &str, labels: serde_json::Value| -> Volume {
            let json = serde_json::json!({
                "Name": name, "Driver": "local", "Mountpoint": "/v/_data", "Scope": "local", "Labels": labels, "Options": {}
            });
            serde_json::from_value(json).expect("a volume")
        };
        let volumes = [
            volume("a", serde_json::json!({})),
            volume("data", serde_json::json!({"k": "v"})),
        ];
        let rows = volumes.iter().map(row).collect();
        LISTING.render(flags, rows).expect("renders")
    }

    #[test]
    fn shapes() {
        let flags = |format: Option<&str>, quiet| ListFlags {
            quiet,
            format: format.map(str::to_owned),
            ..ListFlags::default()
        };
        assert_eq!(
            rendered(&ListFlags::default()),
            "DRIVER    VOLUME NAME\nlocal     a\nlocal     data\n"
        );
        assert_eq!(rendered(&flags(None, true)), "a\ndata\n");
        assert_eq!(
            rendered(&flags(
                Some("table {{.Name}}\t{{.Labels}}\t{{.Scope}}"),
                false
            )),
            "VOLUME NAME   LABELS    SCOPE\na                       local\ndata          k=v       local\n"
        );
        let json = rendered(&flags(Some("json"), false));
        assert_eq!(
            json.lines().next_back(),
            Some(
                r#"{"Availability":"N/A","Driver":"local","Group":"N/A","Labels":"k=v","Links":"N/A","Mountpoint":"/v/_data","Name":"data","Scope":"local","Size":"N/A","Status":"N/A"}"#
            )
        );
    }
}
