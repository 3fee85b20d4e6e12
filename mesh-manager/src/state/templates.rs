//! Templates that tasks were made of, each kept once however many tasks have it.

use super::Task;
use mesh_api::engine;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// What the last task of each service was made of.
#[derive(Debug, Clone, Default)]
pub(super) struct Templates(BTreeMap<String, Arc<engine::TaskSpec>>);

impl Templates {
    /// The template of a service, as its other tasks have it.
    pub(super) fn share(
        &mut self,
        service_id: &str,
        template: &engine::TaskSpec,
    ) -> Arc<engine::TaskSpec> {
        if let Some(last) = self.0.get(service_id).filter(|last| ***last == *template) {
            return Arc::clone(last);
        }
        let template = Arc::new(template.clone());
        self.0.insert(service_id.to_owned(), Arc::clone(&template));
        template
    }

    /// Nothing is left of a service.
    pub(super) fn forget(&mut self, service_id: &str) {
        self.0.remove(service_id);
    }
}

/// Has tasks that were read one by one share their templates again.
pub(super) fn share_again<'a>(tasks: impl Iterator<Item = &'a mut Arc<Task>>) {
    let mut known: HashMap<(String, u64), Arc<engine::TaskSpec>> = HashMap::new();
    for task in tasks {
        let task = Arc::make_mut(task);
        let version = (task.service_id.clone(), task.spec_version);
        let first = known.entry(version).or_insert_with(|| task.spec.clone());
        if *first == task.spec {
            task.spec = Arc::clone(first);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::fixture::{World, replicated, template};
    use mesh_api::engine;
    use std::{collections::HashSet, sync::Arc};

    #[test]
    fn tasks_share_the_template_that_they_were_made_of() {
        let mut world = World::new(&["n1"]);
        let id = world.service(replicated("web", 3)).unwrap();
        let templates = |world: &World| -> HashSet<*const engine::TaskSpec> {
            let tasks = world.state.tasks();
            tasks.map(|task| Arc::as_ptr(&task.spec)).collect()
        };
        world.work();
        assert_eq!(templates(&world).len(), 1);
        let force = |spec: &mut engine::ServiceSpec| template(spec).force_update = Some(1);
        world.edit(&id, force).unwrap();
        world.work();
        assert_eq!(world.state.tasks().count(), 6, "three have ended");
        assert_eq!(templates(&world).len(), 2);
        let bytes = serde_json::to_vec(&world.state).unwrap();
        world.state = serde_json::from_slice(&bytes).unwrap();
        world.state.rebuild_indexes();
        assert_eq!(templates(&world).len(), 2);
        let tasks = world.state.tasks();
        let forced = tasks.filter(|t| t.spec.force_update == Some(1));
        assert_eq!(forced.count(), 3);
    }
}
