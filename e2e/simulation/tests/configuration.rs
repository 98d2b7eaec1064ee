//! Whatever happens to hosts and their network, what proxies have in force is never less than it was, and in the end what
//! the API server says.

#[test]
fn whatever_happens_each_proxy_ends_with_what_the_api_server_says() {
    outrigger_replay::seeds(24, |seed| println!("seed {seed}: {}", outrigger_simulation::run(seed)));
}
