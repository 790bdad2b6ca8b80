"""Tests that do not hold on Podman, with the differences; docs/reference/engines.md lists the same."""

from __future__ import annotations

DIFFERENCES = {
    "test_creation_start_stop_and_removal_are_notified": "a stop without a time kills at once",
    "test_pause_rename_and_health_are_notified": "health checks need systemd",
    "test_a_paused_container_is_removed": "a paused container is not removed",
    "test_the_last_lines_come_from_both_outputs": "an unfinished line is joined with the line before",
    "test_a_partial_line_is_not_joined_with_the_next_run": "an unfinished line is joined with the next run",
    "test_a_very_long_line_comes_in_parts": "long lines are cut at other places",
    "test_a_long_line_of_a_terminal_is_one_line": "long lines are cut at other places",
    "test_a_follower_gets_every_line_once_across_restart_and_replacement": "a follower may miss lines",
    "test_an_unreadable_log_driver_is_a_lasting_error": "other words for an output that cannot be read",
    "test_a_built_service_is_built_and_run": "Compose cannot build",
    "test_a_service_with_a_restart_policy_of_its_own_is_not_started_twice": "the client gets no past events",
}
