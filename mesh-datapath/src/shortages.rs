//! Which published ports and virtual addresses have less than they should, because a table is full or the kernel did not
//! take a row. Everything else goes on being programmed; these are looked at again as soon as something becomes free. What a
//! row takes that the kernel then refuses becomes free with the next apply.

use std::collections::BTreeMap;

use crate::{compile::Front, rows::Length};

/// What one of them lacks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Shortage {
    /// Backends that there is no entry for: they take no flows.
    pub(crate) left_out: usize,
    pub(crate) length: Length,
}

impl Shortage {
    const NONE: Self = Self {
        left_out: 0,
        length: Length::Full,
    };
}

/// Those that lack anything, by [`Pool::id`](mesh_common::Pool::id).
#[derive(Debug, Default)]
pub(crate) struct Shortages(BTreeMap<u32, Shortage>);

impl Shortages {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn contains(&self, pool: u32) -> bool {
        self.0.contains_key(&pool)
    }

    /// Says so where it is news.
    pub(crate) fn note(&mut self, pool: u32, front: &Front, shortage: Shortage) {
        if *self.0.get(&pool).unwrap_or(&Shortage::NONE) == shortage {
            return;
        }
        let (service, backends) = (&front.name, front.active.len());
        match &shortage.length {
            Length::Full => {}
            Length::Short => tracing::warn!(
                %service, backends, "table of rows nearly full: a shorter row, flows are spread less evenly"
            ),
            Length::Missing => tracing::error!(
                %service, backends, "table of rows full: new backends get no flows until there is room"
            ),
            Length::Refused(reason) => tracing::error!(
                %service, backends, reason, "the kernel does not take a row: new backends get no flows until it does"
            ),
        }
        if shortage.left_out != 0 {
            let left_out = shortage.left_out;
            tracing::error!(%service, backends, left_out, "table of backends full: some get no flows");
        }
        if shortage == Shortage::NONE {
            tracing::info!(%service, backends, "has all it needs again");
            self.0.remove(&pool);
        } else {
            self.0.insert(pool, shortage);
        }
    }

    /// Forgets those whose pool is gone.
    pub(crate) fn retain(&mut self, is_there: impl Fn(u32) -> bool) {
        self.0.retain(|pool, _| is_there(*pool));
    }

    /// How many have a shorter row, how many for want of room not the row they should have, and how many as the kernel did
    /// not take it.
    pub(crate) fn rows(&self) -> (usize, usize, usize) {
        let of = |is: fn(&Shortage) -> bool| self.0.values().filter(|s| is(s)).count();
        (
            of(|s| s.length == Length::Short),
            of(|s| s.length == Length::Missing),
            of(|s| matches!(s.length, Length::Refused(_))),
        )
    }

    /// How many backends are left out.
    pub(crate) fn left_out(&self) -> usize {
        self.0.values().map(|s| s.left_out).sum()
    }
}
