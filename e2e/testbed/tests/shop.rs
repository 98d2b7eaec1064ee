//! The test bed by itself, without a mesh: namespaces, apps of every kind, and a load client that sees a death.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use outrigger_testbed::{
    Load, LoadSpec, Machine, Outcome, Pod, PodSpec, Process, Proxies, machine,
    pod::Access,
    probe::{self, wait_until},
};

fn main() -> Result<()> {
    let machine = machine::enter()?;
    every_kind_of_app_answers(&machine)?;
    a_death_is_told_from_what_it_broke(&machine)?;
    println!("test bed: ok");
    Ok(())
}

fn pod(machine: &Machine, number: u16, spec: PodSpec) -> Result<Pod> {
    let access = Access { controller: String::new(), root_cert: PathBuf::new(), token: PathBuf::new() };
    let mut pod = Pod::create(machine, spec.proxies(Proxies::None), number, access)?;
    pod.start_apps()?;
    for app in &mut pod.apps {
        app.wait_log("listening")?;
    }
    Ok(pod)
}

fn every_kind_of_app_answers(machine: &Machine) -> Result<()> {
    let catalog = pod(machine, 1, PodSpec::new("shop/catalog").app("outrigger-testapp http --version v2"))?;
    let cart = pod(machine, 2, PodSpec::new("shop/cart").app("outrigger-testapp grpc --version v7"))?;
    let store = pod(machine, 3, PodSpec::new("shop/store").app("outrigger-testapp store"))?;
    let targets = [
        ("catalog", format!("http://{}:8080/", catalog.address())),
        ("cart", format!("grpc://{}:9090", cart.address())),
        ("store", format!("store://[{}]:6379", store.namespace.v6)),
    ];
    let upstreams: Vec<_> = targets.iter().map(|(name, target)| format!("--upstream {name}={target}")).collect();
    let app = format!("outrigger-testapp http --name front {}", upstreams.join(" "));
    let front = pod(machine, 4, PodSpec::new("shop/front").app(&app))?;
    let visitor = pod(machine, 5, PodSpec::new("shop/visitor"))?;

    let all = targets.map(|(_, target)| target).into_iter().chain([format!("http://{}:8080/shop", front.address())]);
    for (target, version) in all.zip(["v2", "v7", "", "v2"]) {
        for keep_alive in [false, true] {
            let target = target.parse().map_err(anyhow::Error::msg)?;
            let load = Load::start(&visitor, &LoadSpec { keep_alive, ..LoadSpec::new(target, 200) })?;
            wait_until("answers", Duration::from_secs(10), || load.samples().len() >= 60)?;
            let samples = load.finish()?;
            ensure!(
                samples.failed() == 0,
                "{target:?}: {:?}\n{}",
                samples.by_outcome(),
                front.tails(),
                target = version
            );
            ensure!(samples.by_version().keys().eq([version]), "{:?}", samples.by_version());
        }
    }

    let page = probe::get(&front.namespace, 8080, "/status/418")?;
    ensure!(page.status == 418 && page.body.contains("front"), "{page:?}");
    let page = probe::get(&front.namespace, 8080, "/stream?chunks=3&ms=1")?;
    ensure!(page.body == "chunk 0\nchunk 1\nchunk 2\n", "{page:?}");
    ensure!(visitor.exec("ip", &["-o", "addr"])?.contains(&visitor.address().to_string()));
    Ok(())
}

fn a_death_is_told_from_what_it_broke(machine: &Machine) -> Result<()> {
    let mut echo = pod(machine, 6, PodSpec::new("shop/echo").app("outrigger-testapp http"))?;
    let client = pod(machine, 7, PodSpec::new("shop/client"))?;
    let target = format!("http://{}:8080/slow?ms=20", echo.address()).parse().map_err(anyhow::Error::msg)?;
    let load = Load::start(&client, &LoadSpec::new(target, 500))?;
    wait_until("answers", Duration::from_secs(10), || load.samples().ok().count() > 50)?;
    let kill = echo.apps.first_mut().context("the echo")?.kill()?;
    wait_until("refusals", Duration::from_secs(10), || {
        load.samples().by_outcome().get(&Outcome::Refused).is_some_and(|refused| *refused > 20)
    })?;
    let refused = load.samples().by_outcome()[&Outcome::Refused];
    echo.apps.clear();
    echo.start_apps()?;
    wait_until("an answer after", Duration::from_secs(10), || load.samples().first_answer(kill.gone).is_some())?;
    let deaths = load.finish()?.deaths(&[kill]);
    ensure!(deaths.in_flight > 0 && deaths.refused >= refused && deaths.failed_new == 0, "{deaths:?}");
    ensure!(deaths.slowest_first_answer().is_some(), "{deaths:?}");

    // Nothing is left of a process once its owner is gone.
    let app: &Process = echo.apps.first().context("the echo")?;
    let of_app = format!("/proc/{}", app.pid());
    ensure!(fs::exists(&of_app)?);
    drop(echo);
    ensure!(!fs::exists(&of_app)?);
    Ok(())
}
