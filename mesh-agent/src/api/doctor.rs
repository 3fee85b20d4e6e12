//! `/mesh/doctor`: asks all nodes to check themselves, their tunnels and each other's published ports.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use mesh_api::{
    mesh::Finding,
    proto::{query::Question, report},
};

use super::{Answer, Api};
use crate::doctor::{self, Plan};

pub(super) async fn check(State(api): State<Api>) -> Answer<Json<Vec<Finding>>> {
    let manager = api.manager()?;
    let plan = Plan::of(&manager.view(), rand::random());
    let question = |id: &str| Question::Check(plan.question(id, doctor::now()));
    let told = manager.ask(None, question, doctor::PATIENCE).await?;
    let answers: BTreeMap<_, _> = told
        .by_node
        .into_iter()
        .filter_map(|(id, answer)| match answer {
            report::Answer::Check(answer) => Some((id, answer)),
            _ => None,
        })
        .collect();
    Ok(Json(doctor::diagnose(&plan, &answers)))
}
