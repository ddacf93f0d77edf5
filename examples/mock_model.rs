//! The fake model server of the tests, to drive a real agent by hand: `cargo run --example mock_model [PORT]`.
//!
//! Put `[[mock:NAME]]` into a prompt to choose what the model does: plain code code2 tool_ok tool_fail tool_recover
//! permission edit question long slow hang bursty drip wide subagent background trap err401 err429 err500 flaky cut cut_once
//! usage_limit limit_soon. With `MOCK_LOG=FILE` its log is what `orchwrap record --log FILE` reads.

#[path = "../tests/support/mock_model/mod.rs"]
mod mock_model;

use std::net::{Ipv4Addr, SocketAddr};

fn main() {
    let port = std::env::args().nth(1).map_or(8089, |p| p.parse().expect("the argument is a port"));
    let mock = mock_model::Mock::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    if let Some(file) = std::env::var_os("MOCK_LOG") {
        mock.log_to(std::fs::File::create(file).expect("the log's file"));
    }
    let url = mock.url();
    println!("fake model on {url}\n");
    println!("ANTHROPIC_BASE_URL={url} ANTHROPIC_API_KEY=sk-ant-fake-0000000000000fake-key00");
    println!("OpenAI base_url={url}/v1 (wire_api responses)    OLLAMA_HOST={url}\n");
    let mut seen = 0;
    loop {
        mock.wait(std::time::Duration::from_secs(3600), |log| log.len() > seen);
        for record in mock.log().iter().skip(seen) {
            let kind = if record.main { "turn" } else { "side" };
            println!("{} {kind} {} {:?}", record.dialect, record.scenario, record.prompts.last());
            seen += 1;
        }
    }
}
