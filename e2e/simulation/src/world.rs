//! One run: hosts, trouble, and then peace in which all must come to hold what they should.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use outrigger_model::build;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use turmoil::{Builder, Sim};

use crate::{
    api::Shared,
    changes,
    controller::{self, Lags},
    faults::{self, Fault, TROUBLE, Window},
    proxy::{self, Proxy},
};

/// Hosts run for so long before the next one's turn; and messages arrive only between turns.
const TICK: Duration = Duration::from_millis(25);
const LATENCY: Duration = Duration::from_millis(80);
/// More than what it takes to notice a dead connection, to open another one and to give up waiting for an answer.
const PEACE: Duration = Duration::from_secs(60);

struct World {
    sim: Sim<'static>,
    api: Shared,
    lags: Vec<Lags>,
    proxies: Vec<Proxy>,
}

/// What happens in one run is decided by its seed. Says what there was to see.
///
/// # Panics
/// If anything doesn't hold that must.
pub fn run(seed: u64) -> String {
    // In memory, as in a pod.
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let mut random = SmallRng::seed_from_u64(seed);
    let mut world = World::new(seed, Proxy::all(dir.path()), Rc::new(RefCell::new(changes::begin(&mut random))));
    let plan = faults::plan(&mut random, world.proxies.len(), controller::NAMES.len());
    let busy = random.random_range(0.02..0.2);
    let mut now = Duration::ZERO;
    while now < TROUBLE {
        now = world.sim.elapsed();
        let due = |moment: Duration| moment <= now && now < moment + TICK;
        for Window { fault, .. } in plan.iter().filter(|window| due(window.ends)) {
            world.mend(*fault);
        }
        for Window { fault, .. } in plan.iter().filter(|window| due(window.begins)) {
            world.break_(*fault);
        }
        if random.random_bool(busy) {
            changes::something(&mut world.api.borrow_mut(), &mut random);
        }
        if random.random_bool(0.1) {
            let proxy = random.random_range(0..world.proxies.len());
            world.proxies[proxy].call(random.random_range(0..8));
        }
        world.step();
    }
    plan.iter().filter(|window| window.ends > now).for_each(|window| world.mend(window.fault));
    let took = world.settle();
    format!("{} writes, {} faults, all the same after {took:?}", world.api.borrow().newest(), plan.len())
}

// === impl World ===

impl World {
    fn new(seed: u64, proxies: Vec<Proxy>, api: Shared) -> Self {
        let mut sim = Builder::new()
            .rng_seed(seed)
            .tick_duration(TICK)
            .simulation_duration(TROUBLE + 2 * PEACE)
            .max_message_latency(LATENCY)
            .tcp_capacity(1 << 16)
            .build();
        // Each process has a seed of its own.
        let processes = Rc::new(Cell::new(seed << 16));
        let next = move || processes.replace(processes.get() + 1);
        let lags: Vec<Lags> = controller::NAMES.iter().map(|_| Lags::default()).collect();
        for (name, lags) in controller::NAMES.into_iter().zip(&lags) {
            let (api, lags, next) = (api.clone(), lags.clone(), next.clone());
            sim.host(name, move || controller::serve(api.clone(), lags.clone(), next()));
        }
        for proxy in &proxies {
            let (bootstrap, running, next) = (proxy.bootstrap.clone(), proxy.running.clone(), next.clone());
            sim.host(proxy.name, move || proxy::run(bootstrap.clone(), running.clone(), next()));
        }
        Self { sim, api, lags, proxies }
    }

    fn step(&mut self) {
        self.sim.step().unwrap();
        for proxy in &mut self.proxies {
            proxy.look(self.sim.elapsed());
        }
    }

    fn link(&self, proxy: usize, controller: usize) -> (&'static str, &'static str) {
        (self.proxies[proxy].name, controller::NAMES[controller])
    }

    fn break_(&mut self, fault: Fault) {
        match fault {
            Fault::Partition { proxy, controller } => {
                let (proxy, controller) = self.link(proxy, controller);
                self.sim.partition(proxy, controller);
            }
            Fault::Deaf { proxy, controller } => {
                let (proxy, controller) = self.link(proxy, controller);
                self.sim.partition_oneway(controller, proxy);
            }
            Fault::Dumb { proxy, controller } => {
                let (proxy, controller) = self.link(proxy, controller);
                self.sim.partition_oneway(proxy, controller);
            }
            Fault::Hold { proxy, controller } => {
                let (proxy, controller) = self.link(proxy, controller);
                self.sim.hold(proxy, controller);
            }
            Fault::Crash { controller } => self.sim.crash(controller::NAMES[controller]),
            Fault::Kill { proxy } => {
                let proxy = &mut self.proxies[proxy];
                self.sim.crash(proxy.name);
                proxy.killed(self.sim.elapsed());
            }
            Fault::Lag { controller, kind } => self.lags[controller].borrow_mut()[kind] = true,
        }
    }

    fn mend(&mut self, fault: Fault) {
        match fault {
            Fault::Partition { proxy, controller }
            | Fault::Deaf { proxy, controller }
            | Fault::Dumb { proxy, controller } => {
                let (proxy, controller) = self.link(proxy, controller);
                self.sim.repair(proxy, controller);
            }
            Fault::Hold { proxy, controller } => {
                let (proxy, controller) = self.link(proxy, controller);
                self.sim.release(proxy, controller);
            }
            Fault::Crash { controller } => self.sim.bounce(controller::NAMES[controller]),
            Fault::Kill { proxy } => self.sim.bounce(self.proxies[proxy].name),
            Fault::Lag { controller, kind } => self.lags[controller].borrow_mut()[kind] = false,
        }
    }

    /// Says how long it took until every proxy had what it should have.
    fn settle(&mut self) -> Duration {
        let mesh = build(self.api.borrow().inputs(), None).snapshot;
        let views: Vec<_> = self.proxies.iter().map(|proxy| proxy.expected(&mesh)).collect();
        let begun = self.sim.elapsed();
        loop {
            let took = self.sim.elapsed() - begun;
            let different = self.proxies.iter().zip(&views).map(|(proxy, should)| proxy.difference(should));
            let different: Vec<_> = different.flatten().collect();
            if different.is_empty() {
                return took;
            }
            assert!(took < PEACE, "{took:?} after all was well again:\n{}", different.join("\n"));
            for _ in 0..8 {
                self.step();
            }
        }
    }
}
