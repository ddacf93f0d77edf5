//! The real agents, driven against a fake model: `./x agents`. Without it every test here says that it is skipped.

#[path = "../support/agent_fixture.rs"]
mod agent_fixture;
#[path = "../support/mock_model/mod.rs"]
mod mock_model;

mod oneshot;
mod queue;
mod record;
mod setup;
mod turns;
