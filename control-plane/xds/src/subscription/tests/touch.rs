//! To be told what is different comes to the same as to compare everything: `becomes` looks at both.

use super::*;

/// Numbers that look random, the same ones each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % end
    }
}

/// Some names are aliases of others, and move.
fn resources(numbers: &mut Numbers) -> Vec<String> {
    let mut taken = BTreeSet::new();
    let mut resources = BTreeMap::new();
    for _ in 0..numbers.below(12) {
        let name = ["a", "b", "n/a", "n/b", "n/c/d", "@1", "@2"][numbers.below(7) as usize];
        let alias = ["@1", "@2", "@3"][numbers.below(3) as usize];
        let version = numbers.below(3);
        if taken.contains(name) || resources.contains_key(name) {
            continue;
        }
        let free = alias != name && !taken.contains(alias) && !resources.contains_key(alias) && numbers.below(2) == 0;
        resources.insert(name, if free { format!("{name}={version}|{alias}") } else { format!("{name}={version}") });
        if free {
            taken.insert(alias);
        }
    }
    resources.into_values().collect()
}

#[test]
fn whatever_happens() {
    for seed in 0..400 {
        let mut numbers = Numbers(seed);
        let first = resources(&mut numbers);
        let first: Vec<&str> = first.iter().map(String::as_str).collect();
        let mut client = if seed % 4 == 0 { Client::sotw(&first) } else { Client::delta(&first) };
        for _ in 0..40 {
            let asks = ["a", "b", "n/a", "n/*", "n/c/*", "@1", "@2", "@3", "x", "*"];
            let ask = asks[numbers.below(10) as usize];
            match numbers.below(6) {
                0 if seed % 4 == 0 => client.whole(&[ask, "a"]),
                0 => client.change(&[ask], &[]),
                1 if seed % 4 != 0 => client.change(&[], &[ask]),
                2 => drop(client.machine.poll(&mut client.nonces, numbers.below(2) == 0)),
                3 => drop(client.send(Some(client.nonces), None, Names::default())),
                _ => {
                    let next = resources(&mut numbers);
                    client.becomes(&next.iter().map(String::as_str).collect::<Vec<_>>());
                }
            }
        }
    }
}
