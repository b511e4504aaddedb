//! What a spin budget learns.

use super::SpinBudget;

/// Looks allowed by the waits that follow, without the probes.
fn usual(budget: &mut SpinBudget) -> u32 {
    let (a, b) = (budget.begin(), budget.begin());
    a.min(b)
}

#[test]
fn a_slow_device_costs_little_spin_and_is_probed_now_and_then() {
    let mut budget = SpinBudget::adaptive(10_000);
    let mut looks = 0;
    for _ in 0..640 {
        looks += u64::from(budget.begin());
        budget.missed();
    }
    // The probes, the few waits before it had learnt, and the floor.
    assert!(looks < 10 * 10_000 + 20_000 + 640 * u64::from(SpinBudget::QUIET_LOOKS), "{looks}");
    assert_eq!(usual(&mut budget), SpinBudget::QUIET_LOOKS);
}

#[test]
fn a_device_that_became_fast_is_noticed() {
    let mut budget = SpinBudget::adaptive(10_000);
    for _ in 0..100 {
        budget.begin();
        budget.missed();
    }
    budget.hit(1_000);
    assert_eq!(usual(&mut budget), 4_000);
}

#[test]
fn a_fast_device_pulls_the_budget_down_slowly() {
    let mut budget = SpinBudget::adaptive(10_000);
    budget.hit(1_000);
    let after_one = usual(&mut budget);
    assert!((9_000..10_000).contains(&after_one), "{after_one}");
    for _ in 0..100 {
        budget.hit(1_000);
    }
    assert!((4_000..4_010).contains(&usual(&mut budget)));
}

#[test]
fn a_budget_stays_within_its_limit() {
    let mut none = SpinBudget::adaptive(0);
    let mut most = SpinBudget::adaptive(u32::MAX);
    for _ in 0..200 {
        assert_eq!(none.begin(), 0);
        none.hit(u32::MAX);
        none.missed();
        assert!(most.begin() >= SpinBudget::QUIET_LOOKS);
        most.hit(u32::MAX);
        most.missed();
    }
}
