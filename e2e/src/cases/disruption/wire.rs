//! What crosses the network while proxies die and come back, down to none that could carry anything: never plaintext.

use anyhow::{Result, ensure};
use http::{HeaderMap, HeaderName, HeaderValue};
use outrigger_testbed::{Load, LoadSpec, Machine, Mesh, PodSpec, Proxies, now_us};

use super::{CALLER, SHARED, SHOP, after_second, all_accept, flawless, service};
use crate::capture::Capture;

const APP: &str = "shop/app";
/// Not meshed, both.
const DAVE: &str = "out/dave";
const ERIN: &str = "out/erin";
/// Sent with every call, and given back in its answer's body.
const HIDDEN: &str = "marker-of-meshed-pods";
const SHOWN: &str = "marker-of-unmeshed-pods";

#[derive(Debug, Default)]
struct Seen {
    packets: usize,
    bytes: usize,
    hidden: usize,
    shown: usize,
}

pub(super) fn kills(machine: &Machine) -> Result<()> {
    let mut mesh = start(machine)?;
    let capture = Capture::start(Seen::default(), Seen::look)?;
    let meshed = load(&mesh, CALLER, SHOP.parse()?, HIDDEN, 200)?;
    let erin = mesh.pod(ERIN)?.address().into();
    let unmeshed = load(&mesh, DAVE, erin, SHOWN, 50)?;
    after_second(&meshed, now_us())?;
    let mut deaths = 0;
    for dead in [vec![CALLER], vec![APP], vec![CALLER, APP], vec![SHARED], vec![CALLER, APP, SHARED]] {
        for pod in &dead {
            mesh.kill_sidecar(pod)?;
            deaths += 1;
        }
        after_second(&meshed, now_us())?;
        for pod in &dead {
            mesh.restart_sidecar(pod)?;
        }
        // Both, since shared proxies carry what their guards don't trust them with yet.
        all_accept(&mesh, &[CALLER, APP])?;
    }
    let well = now_us();
    after_second(&meshed, well)?;
    let (meshed, unmeshed) = (meshed.finish()?, unmeshed.finish()?);
    let seen = capture.finish()?;
    println!(
        "        {deaths} deaths; {} calls between meshed pods, {} answered; {} packets of {} MB: {} with their marker, \
         {} with that of {} unmeshed calls",
        meshed.len(),
        meshed.ok().count(),
        seen.packets,
        seen.bytes >> 20,
        seen.hidden,
        seen.shown,
        unmeshed.len(),
    );
    flawless(&meshed.between(well, u64::MAX))?;
    flawless(&unmeshed)?;
    // Once in the question and once in its answer, at least: nothing was missed.
    ensure!(seen.shown >= 2 * unmeshed.len(), "the capture is blind: {seen:?} of {} calls", unmeshed.len());
    ensure!(meshed.ok().count() >= 1000, "{:?}", meshed.by_outcome());
    ensure!(seen.hidden == 0, "plaintext between meshed pods: {seen:?}");
    Ok(())
}

fn start(machine: &Machine) -> Result<Mesh> {
    let pods = vec![
        PodSpec::new(CALLER),
        PodSpec::new(APP).app("outrigger-testapp http"),
        PodSpec::new(DAVE).proxies(Proxies::None),
        PodSpec::new(ERIN).proxies(Proxies::None).app("outrigger-testapp http"),
    ];
    let config =
        vec![("services.yaml".to_owned(), service("app", SHOP, "app: app").replace("port: 80\n", "port: 8080\n"))];
    let mut mesh = Mesh::start(machine, outrigger_testbed::Spec { pods, config, shared: 1 })?;
    for pod in [APP, ERIN] {
        mesh.pod_mut(pod)?.apps.iter_mut().try_for_each(|app| app.wait_log("listening"))?;
    }
    Ok(mesh)
}

fn load(mesh: &Mesh, caller: &str, to: std::net::IpAddr, marker: &'static str, rate: u32) -> Result<Load> {
    let target = format!("http://{to}:8080/").parse().map_err(anyhow::Error::msg)?;
    let headers = [(HeaderName::from_static("x-marker"), HeaderValue::from_static(marker))];
    let headers = HeaderMap::from_iter(headers);
    Load::start(mesh.pod(caller)?, &LoadSpec { headers, ..LoadSpec::new(target, rate) })
}

// === impl Seen ===

impl Seen {
    fn look(&mut self, packet: &[u8]) {
        let has = |marker: &str| packet.windows(marker.len()).any(|bytes| bytes == marker.as_bytes());
        self.packets += 1;
        self.bytes += packet.len();
        self.hidden += usize::from(has(HIDDEN));
        self.shown += usize::from(has(SHOWN));
    }
}
