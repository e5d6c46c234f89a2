"""What nvidia-smi's XML tells: written after its layout (drivers 470 to 580), with values of a good and of bad GPUs."""

import pytest

from phi3v_dist.cluster.hardware_gpu import gpu_faults, parse_gpu, read_gpu
from phi3v_dist.errors import HardwareError

# as `nvidia-smi -q -x -i 0` of an H100, shortened to the parts around those that are read
HEALTHY = """<?xml version="1.0" ?>
<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">
<nvidia_smi_log>
	<timestamp>Wed Nov 25 18:00:00 2026</timestamp>
	<driver_version>550.90.07</driver_version>
	<cuda_version>12.4</cuda_version>
	<attached_gpus>8</attached_gpus>
	<gpu id="00000000:19:00.0">
		<product_name>NVIDIA H100 80GB HBM3</product_name>
		<uuid>GPU-00000000-0000-0000-0000-000000000000</uuid>
		<performance_state>P0</performance_state>
		<clocks_event_reasons>
			<clocks_event_reason_gpu_idle>Active</clocks_event_reason_gpu_idle>
			<clocks_event_reason_sw_power_cap>Active</clocks_event_reason_sw_power_cap>
			<clocks_event_reason_hw_slowdown>Not Active</clocks_event_reason_hw_slowdown>
			<clocks_event_reason_hw_thermal_slowdown>Not Active</clocks_event_reason_hw_thermal_slowdown>
			<clocks_event_reason_hw_power_brake_slowdown>Not Active</clocks_event_reason_hw_power_brake_slowdown>
			<clocks_event_reason_sync_boost>Not Active</clocks_event_reason_sync_boost>
			<clocks_event_reason_sw_thermal_slowdown>Not Active</clocks_event_reason_sw_thermal_slowdown>
		</clocks_event_reasons>
		<fb_memory_usage>
			<total>81559 MiB</total>
			<reserved>551 MiB</reserved>
			<used>4 MiB</used>
			<free>81004 MiB</free>
		</fb_memory_usage>
		<ecc_errors>
			<volatile>
				<sram_correctable>0</sram_correctable>
				<sram_uncorrectable_parity>0</sram_uncorrectable_parity>
				<sram_uncorrectable_secded>0</sram_uncorrectable_secded>
				<dram_correctable>3</dram_correctable>
				<dram_uncorrectable>0</dram_uncorrectable>
			</volatile>
			<aggregate>
				<sram_correctable>0</sram_correctable>
				<dram_correctable>9</dram_correctable>
				<dram_uncorrectable>2</dram_uncorrectable>
			</aggregate>
		</ecc_errors>
		<retired_pages>
			<pending_blacklist>N/A</pending_blacklist>
			<pending_retirement>N/A</pending_retirement>
		</retired_pages>
		<remapped_rows>
			<remapped_row_corr>0</remapped_row_corr>
			<remapped_row_unc>1</remapped_row_unc>
			<remapped_row_pending>No</remapped_row_pending>
			<remapped_row_failure>No</remapped_row_failure>
		</remapped_rows>
		<processes>
			<process_info>
				<pid>900</pid>
				<type>G</type>
				<process_name>/usr/lib/xorg/Xorg</process_name>
				<used_memory>4 MiB</used_memory>
			</process_info>
		</processes>
	</gpu>
</nvidia_smi_log>
"""
_PROCESS = (
    "<process_info><pid>4242</pid><type>C</type><process_name>python</process_name>"
    "<used_memory>70000 MiB</used_memory></process_info>"
)


def reason(name: str) -> tuple[str, str]:
    element = f"clocks_event_reason_{name}"
    return f"<{element}>Not Active", f"<{element}>Active"


def test_a_healthy_gpu_has_no_fault_whatever_was_corrected_and_though_it_is_capped() -> None:
    state = parse_gpu(HEALTHY)
    assert (state.name, state.driver, state.used_bytes) == ("NVIDIA H100 80GB HBM3", "550.90.07", 4 << 20)
    assert gpu_faults(state) == []


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (("<dram_uncorrectable>0", "<dram_uncorrectable>2"), "2 uncorrected memory errors"),
        (("secded>0", "secded>1"), "1 uncorrected memory errors"),
        (("pending>No", "pending>Yes"), "waits for a reset"),
        (("<pending_retirement>N/A", "<pending_retirement>Yes"), "waits for a reset"),
        (("failure>No", "failure>Yes"), "must be exchanged"),
        (reason("hw_thermal_slowdown"), "slowed down: too hot (hardware)"),
        (reason("sw_thermal_slowdown"), "slowed down: too hot (driver)"),
        (reason("hw_power_brake_slowdown"), "slowed down: power brake"),
        (reason("hw_slowdown"), "slowed down: hardware slowdown"),
        (("<processes>", f"<processes>{_PROCESS}"), "used by other processes: pid 4242 (python, 70000 MiB)"),
        (("<used>4 MiB", "<used>30000 MiB"), "30000 MiB of its memory are in use"),
    ],
)
def test_each_trouble_of_a_gpu_is_told_alone(change: tuple[str, str], shown: str) -> None:
    assert change[0] in HEALTHY
    (fault,) = gpu_faults(parse_gpu(HEALTHY.replace(*change)))
    assert shown in fault


def test_an_older_driver_calls_the_reasons_by_another_name() -> None:
    changed = HEALTHY.replace(*reason("hw_thermal_slowdown"))
    assert gpu_faults(parse_gpu(changed.replace("clocks_event_reason", "clocks_throttle_reason"))) != []


def test_the_general_word_for_a_slowdown_gives_way_to_its_reason() -> None:
    changed = HEALTHY.replace(*reason("hw_slowdown")).replace(*reason("hw_power_brake_slowdown"))
    assert parse_gpu(changed).slowdowns == ("power brake: the supply can't give enough",)


def test_a_gpu_that_does_not_tell_has_no_fault() -> None:
    bare = "<nvidia_smi_log><gpu><product_name>T4</product_name></gpu></nvidia_smi_log>"
    assert gpu_faults(parse_gpu(bare)) == []


def test_where_no_nvidia_smi_is_the_error_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HardwareError, match="there is no nvidia-smi here"):
        read_gpu(0)


@pytest.mark.parametrize(
    ("visible", "rank_of_node", "asked"), [("", 3, "3"), ("4,5", 1, "5"), ("GPU-a,GPU-b", 0, "GPU-a"), ("0", 2, "2")]
)
def test_the_gpu_that_is_asked_about_is_the_one_the_rank_takes(tmp_path, monkeypatch, visible, rank_of_node, asked):
    # a program that says how it was called, on standard error and with a failure, as nvidia-smi does
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\necho "No devices were found: $*"\nexit 6\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(HardwareError, match=rf"-i {asked}: it ended with an error .*No devices were found: -q -x -i"):
        read_gpu(rank_of_node, {"CUDA_VISIBLE_DEVICES": visible})
