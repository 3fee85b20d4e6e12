//! The execs of this node: made, started once, and asked about for a while after they have ended.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use mesh_api::engine::ExecConfig;
use mesh_runtime::ExecHandle;
use rand::RngCore;

use crate::api::errors::ApiError;

/// Execs kept that do not run: to be started still, or to be asked how they ended. The oldest are forgotten.
const REMEMBERED: usize = 256;

/// The execs of this node.
#[derive(Debug, Default)]
pub(in crate::api) struct Execs(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    by_id: HashMap<String, Exec>,
    /// Ids of those that do not run, in the order they were made or ended.
    idle: VecDeque<String>,
}

impl Table {
    fn idle(&mut self, id: &str) {
        self.idle.push_back(id.to_owned());
        if self.idle.len() > REMEMBERED
            && let Some(oldest) = self.idle.pop_front()
        {
            self.by_id.remove(&oldest);
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Exec {
    pub(super) config: ExecConfig,
    /// Id of the task whose container it runs in.
    pub(super) task: String,
    pub(super) container: String,
    pub(super) progress: Progress,
}

#[derive(Debug, Clone)]
pub(super) enum Progress {
    Created,
    Starting,
    Running(ExecHandle),
    Ended(i32),
}

impl Execs {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ids of a container's execs that run.
    pub(in crate::api) fn of_container(&self, container: &str) -> Vec<String> {
        let table = self.table();
        let runs = |exec: &&Exec| {
            exec.container == container && matches!(exec.progress, Progress::Running(_))
        };
        table
            .by_id
            .iter()
            .filter(|(_, exec)| runs(exec))
            .map(|(id, _)| id.clone())
            .collect()
    }

    pub(super) fn get(&self, id: &str) -> Result<Exec, ApiError> {
        self.table()
            .by_id
            .get(id)
            .cloned()
            .ok_or_else(|| ApiError::no_such_exec(id))
    }

    pub(super) fn insert(&self, exec: Exec) -> String {
        let mut bytes = [0_u8; 32];
        rand::rng().fill_bytes(&mut bytes);
        let id: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut table = self.table();
        table.by_id.insert(id.clone(), exec);
        table.idle(&id);
        id
    }

    /// Gives a created exec to whoever starts it.
    pub(super) fn begin(&self, id: &str) -> Result<Exec, ApiError> {
        let mut table = self.table();
        let exec = table
            .by_id
            .get_mut(id)
            .ok_or_else(|| ApiError::no_such_exec(id))?;
        if !matches!(exec.progress, Progress::Created) {
            return Err(ApiError::exec_started(id));
        }
        exec.progress = Progress::Starting;
        let exec = exec.clone();
        table.idle.retain(|idle| idle != id);
        Ok(exec)
    }

    pub(super) fn runs(&self, id: &str, handle: ExecHandle) {
        if let Some(exec) = self.table().by_id.get_mut(id) {
            exec.progress = Progress::Running(handle);
        }
    }

    pub(super) fn ended(&self, id: &str, code: i32) {
        let mut table = self.table();
        if let Some(exec) = table.by_id.get_mut(id) {
            exec.progress = Progress::Ended(code);
            table.idle(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec() -> Exec {
        Exec {
            config: ExecConfig::default(),
            task: "t".to_owned(),
            container: "c".to_owned(),
            progress: Progress::Created,
        }
    }

    #[test]
    fn an_exec_is_started_once() {
        let execs = Execs::default();
        let id = execs.insert(exec());
        assert_eq!(id.len(), 64);
        assert!(execs.begin(&id).is_ok());
        assert_eq!(
            execs.begin(&id).map(|_| ()),
            Err(ApiError::exec_started(&id))
        );
        assert_eq!(
            execs.begin("x").map(|_| ()),
            Err(ApiError::no_such_exec("x"))
        );
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let execs = Execs::default();
        let running = execs.insert(exec());
        assert!(execs.begin(&running).is_ok());
        let unused = execs.insert(exec());
        let first = execs.insert(exec());
        assert!(execs.begin(&first).is_ok());
        execs.ended(&first, 0);
        for _ in 0..REMEMBERED {
            let id = execs.insert(exec());
            assert!(execs.begin(&id).is_ok());
            execs.ended(&id, 0);
        }
        assert!(execs.get(&first).is_err() && execs.get(&unused).is_err());
        assert!(execs.get(&running).is_ok());
        assert_eq!(execs.table().by_id.len(), REMEMBERED + 1);
    }
}
