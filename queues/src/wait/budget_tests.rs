//! What a spin budget learns, against simulated devices: looks and parks are counted, not timed.

use proptest::prelude::*;

use super::SpinBudget;

/// What waits cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Spent {
    looks: u64,
    parks: u64,
}

/// Waits of a device whose completions come after so many looks each.
fn wait(budget: &mut SpinBudget, latencies: impl IntoIterator<Item = u32>) -> Spent {
    let mut spent = Spent::default();
    for latency in latencies {
        let allowed = budget.begin();
        if latency <= allowed {
            spent.looks += u64::from(latency);
            budget.hit(latency);
        } else {
            spent.looks += u64::from(allowed);
            spent.parks += 1;
            budget.missed();
        }
    }
    spent
}

fn steady(latency: u32, waits: usize) -> impl Iterator<Item = u32> {
    std::iter::repeat_n(latency, waits)
}

const LIMIT: u32 = 1_000;

#[test]
fn a_device_slower_than_the_limit_costs_no_spin_but_rare_probes() {
    let mut budget = SpinBudget::adaptive(LIMIT);
    let learning = wait(&mut budget, steady(u32::MAX, 2_048));
    // 4, 8, 16 and so on up to 1,024 waits apart: about ten.
    assert!(learning.looks <= 12 * u64::from(LIMIT), "{learning:?}");
    let learnt = wait(&mut budget, steady(u32::MAX, 10_240));
    assert!(learnt.looks <= 11 * u64::from(LIMIT), "about one look per wait: {learnt:?}");
    assert_eq!(learnt.parks, 10_240);
}

#[test]
fn a_device_that_takes_longer_than_parking_is_not_spun_for_even_within_the_limit() {
    let mut budget = SpinBudget::adaptive(10_000);
    wait(&mut budget, steady(8_000, 2_000));
    let learnt = wait(&mut budget, steady(8_000, 2_000));
    assert!(learnt.looks < 2_000 * 40, "{learnt:?}");
}

#[test]
fn a_device_that_became_fast_is_noticed_and_one_that_became_slow_again_too() {
    let mut budget = SpinBudget::adaptive(LIMIT);
    for _ in 0..3 {
        wait(&mut budget, steady(u32::MAX, 5_000));
        let noticing = wait(&mut budget, steady(150, 1_200));
        assert!(noticing.parks <= u64::from(SpinBudget::PROBE_MOST) + 64, "{noticing:?}");
        assert_eq!(wait(&mut budget, steady(150, 1_000)).parks, 0);
        let slow = wait(&mut budget, steady(u32::MAX, 1_000));
        assert!(slow.looks <= 40 * u64::from(LIMIT), "{slow:?}");
    }
}

#[test]
fn of_a_device_that_is_fast_or_very_slow_only_the_fast_waits_are_spun_for() {
    let mut budget = SpinBudget::adaptive(LIMIT);
    let mixed = |waits: usize| (0..waits).map(|at| if at % 2 == 0 { 20 } else { u32::MAX });
    wait(&mut budget, mixed(200));
    let learnt = wait(&mut budget, mixed(2_000));
    assert!((1_000..1_020).contains(&learnt.parks), "the slow half parks: {learnt:?}");
    assert!(learnt.looks < 2_000 * 70, "after few looks: {learnt:?}");
}

#[test]
fn budgets_that_do_not_learn_are_what_they_say() {
    let mut none = SpinBudget::none();
    let mut zero = SpinBudget::adaptive(0);
    let mut always = SpinBudget::always();
    let mut fixed = SpinBudget::fixed(77);
    for latency in [1, u32::MAX, 50, 78, u32::MAX] {
        assert_eq!(wait(&mut none, [latency]), Spent { looks: 0, parks: 1 });
        assert_eq!(wait(&mut zero, [latency]), Spent { looks: 0, parks: 1 });
        assert_eq!(fixed.begin(), 77);
        fixed.missed();
        assert_eq!(always.begin(), SpinBudget::ALWAYS_LOOKS);
        always.hit(latency);
    }
}

proptest! {
    /// A device that takes about the same each time, and less than parking: after a short while no
    /// wait parks.
    #[test]
    fn a_fast_device_is_never_parked_for_once_it_is_known(
        base in 1_u32..200,
        jitter in proptest::collection::vec(0_u32..100, 300),
    ) {
        let mut budget = SpinBudget::adaptive(LIMIT);
        let latency = |jitter: &u32| base + base * jitter / 100;
        wait(&mut budget, jitter[..100].iter().map(latency));
        let learnt = wait(&mut budget, jitter[100..].iter().map(latency));
        prop_assert_eq!(learnt.parks, 0);
    }

    /// Whatever was before: a slow device costs next to nothing soon.
    #[test]
    fn a_slow_device_costs_next_to_nothing_whatever_was_before(
        limit in 1_u32..100_000,
        before in proptest::collection::vec(prop_oneof![1_u32..2_000, Just(u32::MAX)], 0..300),
    ) {
        let mut budget = SpinBudget::adaptive(limit);
        wait(&mut budget, before);
        let learning = wait(&mut budget, steady(u32::MAX, 2_000));
        prop_assert!(learning.looks <= 64 * u64::from(limit), "{:?}", learning);
        let learnt = wait(&mut budget, steady(u32::MAX, 10_240));
        prop_assert!(learnt.looks <= 12 * u64::from(limit), "{:?}", learnt);
    }

    /// On any trace it is not worse than twice the better of always and never spinning, both
    /// of which know nothing, but for what learning costs.
    #[test]
    fn it_is_never_much_worse_than_the_better_of_two_fixed_choices(
        trace in proptest::collection::vec(prop_oneof![1_u32..50, 50_u32..2_000, Just(u32::MAX)], 200..600),
    ) {
        let price = |spent: Spent| super::cost(spent.looks.try_into().unwrap_or(u32::MAX)) + super::PARK * spent.parks;
        let total = |mut budget: SpinBudget| -> u64 {
            trace.iter().map(|latency| price(wait(&mut budget, [*latency]))).sum()
        };
        let learnt = total(SpinBudget::adaptive(LIMIT));
        let best = total(SpinBudget::fixed(LIMIT)).min(total(SpinBudget::none()));
        prop_assert!(learnt <= 2 * best + 40 * super::PARK, "{} against {}", learnt, best);
    }

    #[test]
    fn a_budget_stays_within_its_limit(
        limit in any::<u32>(),
        trace in proptest::collection::vec(any::<u32>(), 0..300),
    ) {
        let mut budget = SpinBudget::adaptive(limit);
        for latency in trace {
            prop_assert!(budget.begin() <= limit);
            // Whoever calls it may be wrong about the looks.
            if latency % 2 == 0 { budget.hit(latency) } else { budget.missed() }
        }
    }
}
