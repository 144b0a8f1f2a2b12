//! Requests of a trace replayed on an engine: what a deployment is judged by.

use super::engine::{Engine, Requests};
use super::outcome::Replayed;
use super::scheduler::Scheduler;
use super::step_table::StepTable;
use crate::error::Problem;

/// Replays all requests on one engine.
///
/// Requests of a replay that was stopped are NaN if they had not ended.
///
/// # Errors
/// If there is not memory for so many requests and blocks.
pub fn replay(steps: &StepTable, engine: Engine, requests: Requests) -> Result<Replayed, Problem> {
    Ok(Scheduler::new(steps, engine, requests)?.run())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replay(steps: &StepTable, engine: Engine, requests: Requests) -> Replayed {
        super::replay(steps, engine, requests).unwrap()
    }

    fn free() -> StepTable {
        let (sequences, contexts, decode_s, decode_j) = (vec![1.0], vec![1.0], vec![0.0], vec![0.0]);
        StepTable { sequences, contexts, decode_s, decode_j, ..StepTable::default() }
    }

    fn flat(seconds: f64, joules: f64) -> StepTable {
        StepTable { tokens: vec![1.0], base_s: vec![seconds], base_j: vec![joules], ..free() }
    }

    const NONE: Engine = Engine {
        most_running: 0,
        token_budget: 0,
        cache_tokens: 0,
        chunked: true,
        reads: true,
        block_tokens: 0,
        prefix_hit_share: 0.0,
        lanes: 1,
        idle_w: 10.0,
        warm_s: 0.0,
    };

    const ENGINE: Engine = Engine {
        most_running: 8,
        token_budget: 64,
        cache_tokens: 1000,
        chunked: true,
        reads: true,
        block_tokens: 16,
        ..NONE
    };

    fn requests<'a>(arrival_s: &'a [f64], prompt_tokens: &'a [u32], output_tokens: &'a [u32]) -> Requests<'a> {
        Requests { arrival_s, prompt_tokens, output_tokens, blocks: &[] }
    }

    #[test]
    fn a_single_request() {
        let outcome = replay(&flat(0.5, 2.0), ENGINE, requests(&[1.0], &[100], &[5]));
        // Two steps read the prompt, the second makes the first token; four more make the others.
        assert_eq!((outcome.steps, outcome.first_s[0], outcome.done_s[0], outcome.joules), (6, 1.0, 3.0, 12.0));
    }

    #[test]
    fn whole_prompts_stop_decoding() {
        let engine = Engine { chunked: false, ..ENGINE };
        let outcome = replay(&flat(1.0, 2.0), engine, requests(&[0.0, 1.5], &[10, 200], &[4, 1]));
        // StepTable: read the first, a token, read the second whole, two more tokens.
        assert_eq!((outcome.steps, outcome.done_s[0], outcome.done_s[1]), (5, 5.0, 1.5));
    }

    #[test]
    fn caches_that_come_are_not_read() {
        let engine = Engine { reads: false, ..ENGINE };
        let outcome = replay(&flat(1.0, 2.0), engine, requests(&[0.0], &[500], &[3]));
        assert_eq!((outcome.steps, outcome.done_s[0]), (3, 3.0));
    }

    #[test]
    fn a_prompt_is_read_on_one_lane() {
        let tokens = |lanes| {
            let engine = Engine { lanes, token_budget: 1000, ..ENGINE };
            let steps = StepTable { tokens: vec![0.0, 1.0], base_s: vec![0.0, 1.0], base_j: vec![0.0, 1.0], ..free() };
            replay(&steps, engine, requests(&[0.0, 0.0], &[100, 60], &[1, 1])).first_s[1]
        };
        assert_eq!((tokens(1), tokens(2), tokens(4)), (160.0, 200.0, 400.0));
    }

    #[test]
    fn windows_leave_out_the_ends() {
        let engine = Engine { warm_s: 1.5, ..ENGINE };
        let outcome = replay(&flat(1.0, 2.0), engine, requests(&[0.0, 4.0], &[10, 10], &[3, 5]));
        assert_eq!((outcome.window.seconds, outcome.window.output_tokens, outcome.window.joules), (2.0, 1, 12.0));
    }

    #[test]
    fn waiting_costs_idle_watts() {
        let outcome = replay(&flat(1.0, 2.0), ENGINE, requests(&[0.0, 10.0], &[10, 10], &[1, 1]));
        assert_eq!((outcome.steps, outcome.idle_j, outcome.joules, outcome.span_s), (2, 90.0, 94.0, 11.0));
    }

    #[test]
    fn prefixes_are_hit_until_their_room_is_needed() {
        let prompts: [&[u32]; 4] = [&[0, 1, 2, 3], &[0, 1, 9], &[4, 5, 6, 7], &[0, 1, 2, 3]];
        let arrivals = [0.0, 10.0, 20.0, 30.0];
        let requests =
            Requests { arrival_s: &arrivals, prompt_tokens: &[65; 4], output_tokens: &[1; 4], blocks: &prompts };
        assert_eq!(replay(&flat(1.0, 0.0), ENGINE, requests).prefix_hit_tokens, 2 * 16 + 4 * 16);
        let small = Engine { cache_tokens: 70, ..ENGINE };
        assert_eq!(replay(&flat(1.0, 0.0), small, requests).prefix_hit_tokens, 2 * 16);
    }

    #[test]
    fn all_are_served_and_caches_never_hold_more() {
        let count = 500;
        let arrivals: Vec<f64> = (0..count).map(|i| f64::from(i) * 0.05).collect();
        let prompt_tokens: Vec<u32> = (0..count as u32).map(|i| 1 + (i * 37) % 150).collect();
        let output_tokens: Vec<u32> = (0..count as u32).map(|i| 1 + (i * 53) % 200).collect();
        let blocks: Vec<Vec<u32>> =
            (0..count as u32).map(|i| (0..(i * 37) % 150 / 16).map(|k| i % 7 + 7 * k).collect()).collect();
        let slices: Vec<&[u32]> = blocks.iter().map(Vec::as_slice).collect();
        for (chunked, blocks) in [(true, &[] as &[&[u32]]), (false, &[]), (true, &slices), (false, &slices)] {
            let requests =
                Requests { arrival_s: &arrivals, prompt_tokens: &prompt_tokens, output_tokens: &output_tokens, blocks };
            let outcome = replay(&flat(0.01, 1.0), Engine { chunked, ..ENGINE }, requests);
            assert!(outcome.done_s.iter().all(|done| done.is_finite()));
            assert!(outcome.first_s.iter().zip(&outcome.done_s).all(|(first, done)| first <= done && *first > 0.0));
            assert!(outcome.preempted > 0);
            assert_eq!((outcome.rejected, outcome.prefix_hit_tokens > 0), (0, !blocks.is_empty()));
            assert!(outcome.mean_held_tokens < 1000.0 && outcome.mean_running <= 8.0);
        }
    }
}
