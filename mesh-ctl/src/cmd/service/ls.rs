//! `service ls`

use anyhow::Result;
use mesh_api::{Client, engine::Service};

use crate::{
    format::{ListFlags, Listing, Row, human},
    view::{image_name, label_text, ports},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    list: ListFlags,
}

const LISTING: Listing = Listing {
    table: "{{.ID}}\t{{.Name}}\t{{.Mode}}\t{{.Replicas}}\t{{.Image}}\t{{.Ports}}",
    headings: &[
        ("ID", "ID"),
        ("Name", "NAME"),
        ("Mode", "MODE"),
        ("Replicas", "REPLICAS"),
        ("Image", "IMAGE"),
        ("Ports", "PORTS"),
        ("Labels", "LABELS"),
    ],
    quiet: "{{.ID}}",
};

pub(crate) async fn run(client: &Client, args: Args) -> Result<()> {
    let mut services = client
        .services(&args.list.filters()?, !args.list.quiet)
        .await?;
    services.sort_by(|a, b| human::natural_cmp(name(a), name(b)));
    let rows = services
        .iter()
        .map(|service| row(service, args.list.quiet))
        .collect();
    LISTING.print(&args.list, rows)
}

fn name(service: &Service) -> &str {
    service
        .spec
        .as_ref()
        .and_then(|spec| spec.name.as_deref())
        .unwrap_or_default()
}

/// The word for a service's mode.
pub(super) fn mode(service: &Service) -> &'static str {
    let Some(mode) = service.spec.as_ref().and_then(|spec| spec.mode.as_ref()) else {
        return "replicated";
    };
    match mode {
        mode if mode.global.is_some() => "global",
        mode if mode.global_job.is_some() => "global job",
        mode if mode.replicated_job.is_some() => "replicated job",
        _ => "replicated",
    }
}

fn replicas(service: &Service) -> String {
    let status = service.service_status.clone().unwrap_or_default();
    let running = status.running_tasks.unwrap_or(0);
    let desired = status.desired_tasks.unwrap_or(0);
    let most = service
        .spec
        .as_ref()
        .and_then(|spec| {
            spec.task_template
                .as_ref()?
                .placement
                .as_ref()?
                .max_replicas
        })
        .filter(|most| *most > 0);
    let mode = service.spec.as_ref().and_then(|spec| spec.mode.as_ref());
    let completed = status.completed_tasks.unwrap_or(0);
    let wanted = mode.and_then(|mode| match &mode.replicated_job {
        Some(job) => Some(u64::try_from(job.total_completions.unwrap_or(1)).unwrap_or(0)),
        // What is desired of it is what has not completed yet.
        None => mode.global_job.as_ref().map(|_| desired + completed),
    });
    match (most, wanted) {
        (_, Some(wanted)) => format!("{running}/{desired} ({completed}/{wanted} completed)"),
        (Some(most), None) => format!("{running}/{desired} (max {most} per node)"),
        (None, None) => format!("{running}/{desired}"),
    }
}

fn row(service: &Service, full: bool) -> Row {
    let spec = service.spec.clone().unwrap_or_default();
    let image = spec
        .task_template
        .and_then(|task| task.container_spec)
        .and_then(|container| container.image)
        .unwrap_or_default();
    let published = service
        .endpoint
        .as_ref()
        .and_then(|endpoint| endpoint.ports.clone());
    Row::new()
        .with(
            "ID",
            human::id(service.id.as_deref().unwrap_or_default(), full),
        )
        .with("Name", name(service))
        .with("Mode", mode(service))
        .with("Replicas", replicas(service))
        .with("Image", image_name(&image))
        .with("Ports", ports::published(&published.unwrap_or_default()))
        .with("Labels", label_text(spec.labels.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        let services: Vec<Service> = serde_json::from_value(serde_json::json!([
            {"ID": "abcdefghijklmnopqrstuvwxy",
             "Spec": {"Name": "web", "Mode": {"Replicated": {"Replicas": 5}},
                      "TaskTemplate": {"ContainerSpec": {"Image": "whoami:latest@sha256:00"}}},
             "Endpoint": {"Ports": [{"Protocol": "tcp", "TargetPort": 8080, "PublishedPort": 80, "PublishMode": "ingress"}]},
             "ServiceStatus": {"RunningTasks": 5, "DesiredTasks": 5}},
            {"ID": "bcdefghijklmnopqrstuvwxyz",
             "Spec": {"Name": "agent", "Mode": {"Global": {}},
                      "TaskTemplate": {"ContainerSpec": {"Image": "a:1"}}},
             "ServiceStatus": {"RunningTasks": 2, "DesiredTasks": 3}}
        ]))
        .expect("services");
        let rows = services.iter().map(|service| row(service, false)).collect();
        assert_eq!(
            LISTING
                .render(&ListFlags::default(), rows)
                .expect("renders"),
            "ID             NAME      MODE         REPLICAS   IMAGE           PORTS\n\
             abcdefghijkl   web       replicated   5/5        whoami:latest   *:80->8080/tcp\n\
             bcdefghijklm   agent     global       2/3        a:1             \n"
        );
    }
}
