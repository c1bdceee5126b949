//! The suite fails on a backend that is wrong: one defect, and the case that
//! must notice it.

use super::conforms::FakeFixture;
use crate::compute::conformance::{Failure, crashes, exec, lifecycle, limits, network, walls};
use crate::compute::fake::Defect;

macro_rules! noticed {
    ($($test:ident: $defect:ident by $group:ident::$case:ident;)+) => {
        $(#[tokio::test(start_paused = true)]
        async fn $test() -> Result<(), Failure> {
            let fixture = FakeFixture::broken(Defect::$defect)?;
            let outcome = $group::$case(&fixture).await;
            assert!(
                matches!(outcome, Err(Failure::Broken(_))),
                "{} did not notice {:?}: {outcome:?}",
                stringify!($case),
                Defect::$defect,
            );
            Ok(())
        })+
    };
}

noticed! {
    absent_when_down: AbsentWhenDown by crashes::engine_down_is_an_error;
    empty_when_down: EmptyWhenDown by crashes::engine_down_is_an_error;
    create_twice_makes_two: CreateTwiceMakesTwo by lifecycle::create_twice_gives_one;
    a_crash_makes_two: CreateTwiceMakesTwo by crashes::create_after_a_crash_is_adopted;
    a_lost_reply_makes_two: CreateTwiceMakesTwo by crashes::create_again_gives_what_was_made;
    failed_create_leaves_it: FailedCreateLeavesIt by lifecycle::a_failed_create_leaves_nothing;
    lists_strangers: ListsStrangers by lifecycle::list_ignores_strangers;
    destroy_twice_fails: DestroyTwiceFails by lifecycle::destroy_twice;
    forgets_handle: ForgetsHandle by crashes::a_handle_survives_a_new_process;
    refuses_old_handle: RefusesOldHandle by crashes::a_handle_survives_a_new_process;
    stop_never_kills: StopNeverKills by lifecycle::stop_kills_after_grace;
    stop_without_grace: StopWithoutGrace by lifecycle::stop_honours_grace;
    start_loses_disk: StartLosesDisk by lifecycle::stop_then_start_keeps_the_disk;
    started_at_moves: StartedAtMoves by lifecycle::started_at_is_stable;
    no_cpu_limit: NoLimits by limits::cpu_limit_holds;
    no_memory_limit: NoLimits by limits::memory_limit_holds;
    no_pids_limit: NoLimits by limits::pids_limit_holds;
    no_disk_limit: NoLimits by limits::disk_limit_holds;
    no_limit_of_files_in_memory: NoLimits by limits::files_in_memory_are_limited;
    the_host_is_open: OpenNetwork by network::host_services_are_out_of_reach;
    the_lan_is_open: OpenNetwork by network::the_lan_is_out_of_reach;
    the_metadata_is_open: OpenNetwork by network::metadata_address_is_out_of_reach;
    neighbours_are_open: OpenNetwork by network::neighbours_are_out_of_reach;
    dial_goes_out: OpenNetwork by network::dial_reaches_the_inside_only;
    pause_does_nothing: PauseDoesNothing by exec::pause_stops_the_clock;
    merges_stderr: MergesStderr by exec::exec_keeps_stderr_apart;
    loses_exit_code: LosesExitCode by exec::exec_carries_the_exit_code;
    keeps_dropped_exec: KeepsDroppedExec by exec::dropping_a_session_ends_its_command;
    unbounded_logs: UnboundedLogs by exec::logs_end_with_the_last_lines;
    host_files_are_open: NoIsolation by walls::host_files_are_hidden;
    host_processes_are_open: NoIsolation by walls::host_processes_are_hidden;
    mounting_works: NoIsolation by walls::mounting_is_forbidden;
    no_capacity_limit: NoCapacityLimit by lifecycle::creates_at_once_up_to_capacity;
}
