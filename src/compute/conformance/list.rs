//! The list of all cases, once.

/// Makes a test of each case of the suite. The first argument is an expression
/// that is awaited in each test and gives `Result<impl Fixture, Failure>`; the
/// rest goes to `#[tokio::test(…)]`.
///
/// ```ignore
/// satlet::backend_conformance!(MyFixture::new(); flavor = "multi_thread");
/// ```
#[macro_export]
macro_rules! backend_conformance {
    ($make:expr; $($how:tt)*) => {
        $crate::backend_conformance! { @all $make; [$($how)*];
            lifecycle: create_twice_gives_one, create_at_once_with_one_key_gives_one,
                create_brings_a_stopped_one_back, a_failed_create_leaves_nothing,
                prepare_is_repeatable, destroyed_is_absent, destroy_twice, stop_honours_grace,
                stop_kills_after_grace, stop_ends_what_runs_inside,
                stop_then_start_keeps_the_disk, the_end_of_the_main_process_is_seen,
                started_at_is_stable, list_carries_labels, list_ignores_strangers,
                creates_at_once_up_to_capacity, environment_is_seen_inside,
                foreign_handles_are_refused;
            crashes: create_after_a_crash_is_adopted, create_again_gives_what_was_made,
                a_handle_survives_a_new_process, engine_down_is_an_error,
                a_cancelled_create_is_swept;
            limits: what_cannot_be_enforced_is_refused, cpu_limit_holds, memory_limit_holds,
                pids_limit_holds, a_fork_bomb_is_contained, disk_limit_holds,
                files_in_memory_are_limited, a_full_disk_goes_with_its_workload;
            network: loopback_inside_works, metadata_address_is_out_of_reach,
                host_services_are_out_of_reach, the_lan_is_out_of_reach,
                the_outside_is_as_offered, neighbours_are_out_of_reach,
                dial_reaches_the_inside, dial_reaches_the_inside_only;
            exec: exec_carries_stdin, exec_carries_the_exit_code, exec_keeps_stderr_apart,
                exec_of_arguments, exec_adds_environment, exec_of_a_shell, exec_has_a_terminal,
                a_terminal_interrupts, exec_carries_signals,
                dropping_a_session_ends_its_command, commands_run_side_by_side,
                logs_end_with_the_last_lines, pause_stops_the_clock,
                a_paused_workload_can_be_ended;
            walls: hostname_is_its_own, host_processes_are_hidden, namespaces_are_its_own,
                root_inside_is_nobody_outside, privileges_are_dropped, host_files_are_hidden,
                host_files_cannot_be_written, mounting_is_forbidden, modules_are_forbidden,
                kernel_settings_are_forbidden, kernel_memory_is_hidden, the_clock_is_the_hosts,
                device_nodes_are_forbidden, its_limits_are_not_its_own;
        }
    };
    (@all $make:expr; $how:tt; $($group:ident: $($case:ident),+;)+) => {
        $($($crate::backend_conformance! { @one $make; $how; $group $case })+)+
    };
    (@one $make:expr; [$($how:tt)*]; $group:ident $case:ident) => {
        #[tokio::test($($how)*)]
        async fn $case() -> $crate::compute::conformance::Outcome {
            use $crate::compute::conformance as suite;
            let name = stringify!($case);
            let fixture = match $make.await {
                Ok(fixture) => fixture,
                Err(failure) => return suite::report(name, Err(failure)),
            };
            let outcome = suite::$group::$case(&fixture).await;
            suite::finish(name, &fixture, outcome).await
        }
    };
}
