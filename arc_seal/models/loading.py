"""Networks read from files, or refused in one line."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from tqdm import tqdm
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from arc_seal.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def reading(location: str) -> Iterator[None]:
    """Read files of a model without progress bars; what goes wrong with them is said in one line.

    Raises:
        ModelError: When the files cannot be found or read.
    """
    logging.disable_progress_bar()
    leave_no_semaphore()
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        found = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise ModelError(location, "", "a causal language model that transformers can read", found) from error


def leave_no_semaphore() -> None:
    """Have tqdm, which peft uses, lock threads alone: its own lock a worker that is killed would leave behind."""
    tqdm.set_lock(threading.RLock())


def read_network(location: str, folder: str, dtype: torch.dtype) -> "PreTrainedModel":
    """Read a causal language model, every weight of it, onto the CPU.

    Args:
        location: What the user calls it.
        folder: The same as `from_pretrained` takes it.
        dtype: Of the weights.

    Raises:
        ModelError: When it cannot be read, or weights are missing.
    """
    with reading(location):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation="sdpa", output_loading_info=True
        )
    network: PreTrainedModel
    network, report = loaded  # not in its type
    if missing := sorted(report["missing_keys"]):  # transformers has filled them with random numbers
        found = f"none for {len(missing)} tensors, such as {missing[0]}"
        raise ModelError(location, "", "weights for the whole network", found)
    return network


def pick_device(name: str) -> torch.device:
    """The torch device for `auto` or a device's name.

    Raises:
        ModelError: When the name is not a device or the device is not there.
    """
    if name == "auto":
        has_mps = torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError("model.device", "", "auto, cpu, or an accelerator of this machine", repr(name)) from error
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The torch dtype for `auto` or a dtype's name.

    Raises:
        ModelError: When it is not the name of a floating-point type.
    """
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ModelError("model.dtype", "", "auto, float32, bfloat16 or float16", repr(name))
    return dtype
