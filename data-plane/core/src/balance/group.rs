//! Some of a set's endpoints, to draw from by weight.

use std::sync::Arc;

use super::Endpoint;
use crate::hash::scale;

/// Positions within the set.
#[derive(Debug, Default)]
pub(super) struct Group {
    members: Box<[u32]>,
    /// Sums of the weights up to and with each member; empty if all weigh the same.
    sums: Box<[u32]>,
    mean_weight: f32,
}

impl Group {
    pub(super) fn new(endpoints: &[Arc<Endpoint>], wanted: impl Fn(&Endpoint) -> bool) -> Self {
        let members: Box<[u32]> = (0..).zip(endpoints).filter(|(_, e)| wanted(e)).map(|(at, _)| at).collect();
        let weights = || members.iter().map(|&at| endpoints[at as usize].spec.weight.max(1));
        let total: u64 = weights().map(u64::from).sum();
        let even = weights().min() == weights().max();
        // Weights are relative; huge ones are scaled down to where their sum fits.
        let shift = total.checked_ilog2().unwrap_or(0).saturating_sub(30);
        let sums = weights().scan(0, |sum, weight| {
            *sum += (weight >> shift).max(1);
            Some(*sum)
        });
        let sums = if even { Box::default() } else { sums.collect() };
        let mean_weight = total as f32 / members.len().max(1) as f32;
        Self { members, sums, mean_weight }
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(super) fn members(&self) -> &[u32] {
        &self.members
    }

    pub(super) fn mean_weight(&self) -> f32 {
        self.mean_weight
    }

    /// A member by weight. Only on groups that aren't empty.
    pub(super) fn draw(&self, random: u32) -> usize {
        let index = match self.sums.last() {
            Some(&total) => self.sums.partition_point(|&sum| sum <= scale(random, total)),
            None => scale(random, self.members.len() as u32) as usize,
        };
        self.members[index] as usize
    }

    /// The member whose turn it is, each as often as it weighs. Only on groups that aren't empty.
    pub(super) fn turn(&self, turn: u32) -> usize {
        if self.sums.is_empty() {
            return self.members[turn as usize % self.members.len()] as usize;
        }
        // Multiples of the golden ratio fill the range evenly at every length, so heavy members don't come in bursts.
        self.draw(turn.wrapping_mul(0x9e37_79b9))
    }
}
