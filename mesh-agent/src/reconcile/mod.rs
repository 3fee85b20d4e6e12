//! One road to state: observe, plan (pure), apply (idempotent).

pub mod plan;
pub mod record;
pub mod state;
