//! `--ulimit name=soft` and `name=soft:hard`

use anyhow::{Context, Result, bail};
use mesh_api::engine::ResourcesUlimits;

/// Names of limits, as of getrlimit(2).
const NAMES: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// No limit.
const UNLIMITED: i64 = -1;

/// Reads one argument. Without a hard limit it is what the soft one is.
pub(crate) fn parse(text: &str) -> Result<ResourcesUlimits> {
    let (name, limits) = text
        .split_once('=')
        .with_context(|| format!("invalid ulimit argument: {text}"))?;
    if !NAMES.contains(&name) {
        bail!("invalid ulimit type: {name}");
    }
    let number = |word: &str| {
        let number = word.parse::<i64>().ok();
        number
            .filter(|number| *number >= UNLIMITED)
            .with_context(|| format!("invalid ulimit {text:?}: {word:?} is no limit"))
    };
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let (soft, hard) = (number(soft)?, number(hard)?);
    let is_above = hard != UNLIMITED && (soft == UNLIMITED || soft > hard);
    if is_above {
        bail!("ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}");
    }
    Ok(ResourcesUlimits {
        name: Some(name.to_owned()),
        soft: Some(soft),
        hard: Some(hard),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits() {
        for (text, soft, hard) in [
            ("nofile=512", 512, 512),
            ("nofile=512:1024", 512, 1024),
            ("core=0:-1", 0, -1),
            ("core=-1", -1, -1),
        ] {
            let limit = parse(text).expect(text);
            assert_eq!((limit.soft, limit.hard), (Some(soft), Some(hard)), "{text}");
        }
        for text in [
            "nofile",
            "files=1",
            "nofile=",
            "nofile=x",
            "nofile=2:1",
            "nofile=-1:5",
            "nofile=-2",
            "nofile=1:2:3",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
