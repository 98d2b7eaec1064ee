//! Requests of one destination and their tries, by a seed: methods, bodies and policies at random, and of each try that nobody
//! was there, that the connection broke, that it took too long, or some answer. A diary says of each request what an app may have
//! acted on, and a list of everything that was ever counted what the budget allowed.

use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::{RetryBudget, Tries};
use crate::{clock, config::Retry};

const REQUESTS: usize = 100;
/// The floor and the window, as they are documented.
const ALWAYS: usize = 10;
const LOOKED_BACK: u64 = 10;

/// What becomes of one try.
#[derive(Debug, Clone, Copy)]
enum Fate {
    /// Not one byte was sent. With whether all endpoints were tried before.
    Unsent(bool),
    /// The app may have acted on it, as in all that follow.
    Broken,
    /// It took longer than it may.
    Slow,
    Answer(StatusCode),
    /// The far proxy's word that it couldn't reach the app.
    Unreached,
}

#[derive(Debug)]
struct Request {
    method: Method,
    body: bool,
    retry: Option<Retry>,
    each: Option<Duration>,
    limit: Option<Duration>,
}

/// What has become of a request's tries.
#[derive(Debug, Default)]
struct Diary {
    unsent: u32,
    reached: u32,
}

/// The naive budget: everything that was ever counted.
#[derive(Default)]
struct Ledger {
    requests: Vec<u64>,
    granted: Vec<u64>,
}

struct World {
    seed: u64,
    dice: SmallRng,
    begun: Instant,
    now: Duration,
    budget: RetryBudget,
    percent: u32,
    ledger: Ledger,
    /// Of ten tries so many fail.
    trouble: u32,
}

// === impl Ledger ===

impl Ledger {
    /// What the budget must say, and why.
    fn allows(&self, second: u64, percent: u32) -> (bool, String) {
        let late = |all: &[u64]| all.iter().filter(|&&at| at + LOOKED_BACK > second).count();
        let (requests, granted) = (late(&self.requests), late(&self.granted));
        let most = (requests * percent as usize / 100).max(ALWAYS);
        (granted < most, format!("{granted} of {most} for {requests} requests"))
    }
}

// === impl World ===

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = SmallRng::seed_from_u64(seed);
        Self {
            seed,
            begun: clock::next_second(),
            now: Duration::ZERO,
            budget: RetryBudget::default(),
            percent: dice.random_range(1..=100),
            ledger: Ledger::default(),
            trouble: dice.random_range(1..=10),
            dice,
        }
    }

    fn at(&self) -> Instant {
        self.begun + self.now
    }

    fn millis(&mut self, below: u64) -> Duration {
        Duration::from_millis(self.dice.random_range(0..below))
    }

    fn request(&mut self) -> Request {
        let methods = [Method::GET, Method::HEAD, Method::PUT, Method::DELETE, Method::POST, Method::PATCH];
        let retry = self.dice.random_bool(0.6).then(|| Retry {
            attempts: self.dice.random_range(0..5),
            codes: if self.dice.random_bool(0.5) { vec![503, 429] } else { Vec::new() },
            backoff: Duration::from_millis(self.dice.random_range(0..500)),
            non_idempotent: self.dice.random_bool(0.3),
        });
        Request {
            method: methods[self.dice.random_range(0..methods.len())].clone(),
            body: self.dice.random_bool(0.3),
            retry,
            each: self.dice.random_bool(0.4).then(|| Duration::from_millis(self.dice.random_range(1..1_000))),
            limit: self.dice.random_bool(0.4).then(|| Duration::from_millis(self.dice.random_range(1..3_000))),
        }
    }

    fn fate(&mut self) -> (Fate, Duration) {
        let takes = [5, 100, 2_000][self.dice.random_range(0..3)];
        let takes = self.millis(takes);
        let fails = self.dice.random_range(0..10) < self.trouble;
        let fate = match self.dice.random_range(0..7) {
            _ if !fails => Fate::Answer(StatusCode::OK),
            0 | 1 => Fate::Unsent(self.dice.random_bool(0.5)),
            2 | 3 => Fate::Broken,
            4 => Fate::Answer(StatusCode::SERVICE_UNAVAILABLE),
            5 => Fate::Answer(StatusCode::INTERNAL_SERVER_ERROR),
            _ => Fate::Unreached,
        };
        (fate, takes)
    }

    /// Carries one request until there is an answer or no more try.
    fn carry(&mut self) {
        let request = self.request();
        let deadline = request.limit.map(|limit| self.now + limit);
        self.budget.request(self.at());
        self.ledger.requests.push(super::second(self.at()));
        let (retry, at) = (request.retry.as_ref(), deadline.map(|deadline| self.begun + deadline));
        let mut tries = Tries::new(&request.method, !request.body, retry, request.each, at);
        let mut diary = Diary::default();
        loop {
            let context = format!("seed {}, at {:?}: {diary:?}, {request:?}", self.seed, self.now);
            diary.may_begin(&request, &context);
            let (fate, takes) = self.fate();
            let until = tries.until(self.at()).map(|until| until - self.begun);
            assert_eq!(until, request.each.map(|each| self.now + each).into_iter().chain(deadline).min(), "{context}");
            // A try that takes too long is broken off, and nobody knows what of it has arrived.
            let (fate, ends) = match until {
                Some(until) if self.now + takes > until => (Fate::Slow, until),
                _ => (fate, self.now + takes),
            };
            self.now = ends.max(self.now);
            let again = self.ask(&mut tries, fate, &request, &mut diary, &context);
            if !again {
                return;
            }
            if matches!(fate, Fate::Unsent(_)) {
                continue;
            }
            let random = self.dice.random();
            let Some(pause) = tries.pause(self.at(), random) else {
                let (longest, left) =
                    (request.longest_pause(), deadline.map(|deadline| deadline.saturating_sub(self.now)));
                assert!(left.is_some_and(|left| left <= longest), "{context}: given up with {left:?} left");
                return;
            };
            assert!(pause <= request.longest_pause(), "{context}: a pause of {pause:?}");
            self.now += pause;
            assert!(deadline.is_none_or(|deadline| self.now < deadline), "{context}: past the deadline");
        }
    }

    /// Whether there is another try, and whether that is right.
    fn ask(&mut self, tries: &mut Tries<'_>, fate: Fate, request: &Request, diary: &mut Diary, context: &str) -> bool {
        let (now, budget, percent, ledger) = (self.at(), &self.budget, self.percent, &mut self.ledger);
        let second = super::second(now);
        let mut taken = None;
        let budget = || {
            let granted = budget.try_retry(percent, now);
            let (expected, why) = ledger.allows(second, percent);
            assert_eq!(granted, expected, "{context}: {why}");
            ledger.granted.extend(granted.then_some(second));
            taken = Some(granted);
            granted
        };
        let again = match fate {
            Fate::Unsent(bears_less) => tries.unsent(bears_less, budget),
            Fate::Broken => tries.broken(false, budget),
            Fate::Slow => tries.broken(true, budget),
            Fate::Answer(status) => tries.answered(status, false, budget),
            Fate::Unreached => tries.answered(StatusCode::BAD_GATEWAY, true, budget),
        };
        let more = match fate {
            Fate::Unsent(_) => diary.unsent < 5,
            _ => diary.reached < request.most_repeats() && request.is_worth(fate),
        };
        // All but the first of what was never sent is out of the budget, and nothing else is.
        let costs = more && !matches!(fate, Fate::Unsent(false));
        assert_eq!(taken.is_some(), costs, "{context}: {fate:?} and the budget");
        assert_eq!(again, more && taken.unwrap_or(true), "{context}: again after {fate:?}");
        match fate {
            Fate::Unsent(_) => diary.unsent += 1,
            _ => diary.reached += 1,
        }
        again
    }
}

// === impl Diary ===

impl Diary {
    /// What an app may have acted on is sent again only if its method or its owner allows that, and not too often.
    fn may_begin(&self, request: &Request, context: &str) {
        assert!(self.reached == 0 || request.may_be_repeated(), "{context}: twice");
        assert!(self.reached <= request.most_repeats() && self.unsent <= 5, "{context}: too often");
    }
}

// === impl Request ===

impl Request {
    fn may_be_repeated(&self) -> bool {
        let safe = [Method::GET, Method::HEAD, Method::PUT, Method::DELETE].contains(&self.method);
        !self.body && (safe || self.retry.as_ref().is_some_and(|retry| retry.non_idempotent))
    }

    fn most_repeats(&self) -> u32 {
        let wanted = self.retry.as_ref().map_or(1, |retry| retry.attempts);
        if self.may_be_repeated() { wanted } else { 0 }
    }

    fn is_worth(&self, fate: Fate) -> bool {
        match fate {
            Fate::Unsent(_) | Fate::Broken | Fate::Unreached => true,
            Fate::Slow => self.retry.is_some(),
            Fate::Answer(status) => self.retry.as_ref().is_some_and(|retry| retry.codes.contains(&status.as_u16())),
        }
    }

    /// One second or what the owner wrote, and half of it more.
    fn longest_pause(&self) -> Duration {
        let base = self.retry.as_ref().map_or(Duration::ZERO, |retry| retry.backoff);
        if base.is_zero() { base } else { base.max(Duration::from_secs(1)) * 3 / 2 }
    }
}

#[test]
fn whatever_comes_of_tries_nothing_is_done_twice_that_may_not_be_and_the_budget_holds() {
    outrigger_replay::seeds(2_000, |seed| {
        let mut world = World::new(seed);
        for _ in 0..REQUESTS {
            world.carry();
            let pause = world.millis(300);
            world.now += pause;
        }
    });
}
