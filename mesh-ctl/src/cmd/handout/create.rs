//! `secret create` and `config create`

use std::{
    fs::File,
    io::{self, Read},
};

use anyhow::{Context, Result};
use mesh_api::{Client, handout::Kind};

use crate::flags::labels;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Its name
    name: String,
    /// File that it is made of; - is standard input
    file: String,
    /// Label, as key=value
    #[arg(short, long = "label", value_name = "LABEL")]
    labels: Vec<String>,
    /// It is a template that is filled in for each task: golang
    #[arg(long, value_name = "DRIVER")]
    template_driver: Option<String>,
}

pub(crate) async fn run(client: &Client, kind: Kind, args: Args) -> Result<()> {
    // More than fits is read no further: it is refused for what was read.
    let most = u64::try_from(kind.limit())? + 1;
    let data = match args.file.as_str() {
        "-" => read(io::stdin().lock(), most).context("cannot read standard input")?,
        path => File::open(path)
            .and_then(|file| read(file, most))
            .with_context(|| format!("cannot read {path}"))?,
    };
    let labels = labels(&args.labels);
    let made = client
        .handout_create(
            kind,
            &args.name,
            &labels,
            &data.into(),
            args.template_driver,
        )
        .await?;
    say!("{made}")?;
    Ok(())
}

fn read(from: impl Read, most: u64) -> io::Result<Vec<u8>> {
    let mut data = Vec::new();
    from.take(most).read_to_end(&mut data)?;
    Ok(data)
}
