//! What a client tells of its work: sqlcommenter's tags in a statement, and its `application_name`.
//!
//! Invariant: all of it is claimed, so it is kept for correlation and decides nothing. It is bounded, and what
//! is not in a known form is left out.

use doorward_core::{Access, TaskRef, TraceParent};

/// The prefix of a pipeline's keys, where there is one.
const PREFIX: &str = "airflow.";
/// The key of a place in a trace.
const TRACEPARENT: &str = "traceparent";

/// A client, as it describes itself.
#[derive(Debug, Default)]
pub(crate) struct Client {
    /// Its `application_name`.
    pub(crate) name: Option<Box<str>>,
    task: TaskRef,
}

impl Client {
    /// The client of this name. `dag_id=daily,task_id=load` names the task that the session is for.
    pub(crate) fn new(name: Option<&str>) -> Self {
        let mut task = TaskRef::default();
        let pairs = name.into_iter().flat_map(|name| name.split(',')).filter_map(|pair| pair.split_once('='));
        for (key, value) in pairs {
            take(&mut task, key, value.trim());
        }
        Self { name: name.map(Into::into), task }
    }

    /// Keeps in a statement's record what the client tells; the statement's own tags tell more than its session.
    pub(crate) fn note<'t>(&self, access: &mut Access, tags: impl Iterator<Item = (&'t str, &'t str)>) {
        if let Some(name) = &self.name {
            access.note_user_agent(name);
        }
        let mut task = self.task.clone();
        for (key, value) in tags {
            match key {
                TRACEPARENT => {
                    if let Some(parent) = TraceParent::read(value) {
                        access.join_trace(parent);
                    }
                }
                key => take(&mut task, key, value),
            }
        }
        if !task.is_empty() {
            access.note_task(Box::new(task));
        }
    }
}

fn take(task: &mut TaskRef, key: &str, value: &str) {
    let key = key.trim();
    task.take(key.strip_prefix(PREFIX).unwrap_or(key), value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_tell_of_a_task() {
        let task = Client::new(Some("dag_id=daily, airflow.task_id=load,try_number=2,other=x")).task;
        assert_eq!((task.dag_id.as_deref(), task.task_id.as_deref()), (Some("daily"), Some("load")));
        assert_eq!((task.try_number, task.run_id, task.map_index), (Some(2), None, None));
        for name in ["psql", "DBeaver 24.1 - Main", "a=b", "dag_id=", "try_number=-1"] {
            assert!(Client::new(Some(name)).task.is_empty(), "{name}");
        }
    }
}
