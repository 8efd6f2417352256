"""Read and write upstream checkpoints as data: nothing in a checkpoint is ever executed, and PyTorch is not needed.

    checkpoint = checkpoints.read("convnext_tiny_1k_224_ema.pth")
    checkpoint.check_finite()
    checkpoint.tensors["stages.0.0.gamma"]             # a read-only, memory-mapped numpy array

Four containers are recognised by their content, never by their name:

    safetensors   8 bytes of header length, a JSON header, raw little-endian data
    torch         the zip format of torch >= 1.6: <root>/data.pkl and one stored member per storage
    torch-legacy  the stream before it: five pickles, then the storages one after the other
    npz           a zip of .npy members, as numpy and the JAX repositories write it

The pickles inside the two torch formats are interpreted by a machine that knows tensors and plain containers. Every
other class or function it meets becomes an `Opaque` value: a name with arguments, which is neither imported nor called.
Whatever is wrong with a file ends in one exception, `CheckpointError`, that names the file, the reason and the fix.
An index of shards, as Hugging Face writes it (`model.safetensors.index.json`), is read like one file; the others are beside it.

The arrays are views of one memory map: do not truncate or rewrite the file while they are in use.

    files         what is public: read, write, Checkpoint         arrays    views of the file's bytes
    safetensors, npz, torch_zip, torch_legacy   one container each         zips      the directory of a zip
    torch_state   the network's entry in a torch file, as arrays          pickles   the pickle machine
    others        what files and folders of other programs are            errors
"""

from builders.checkpoints.arrays import all_finite
from builders.checkpoints.errors import CheckpointError, choose
from builders.checkpoints.files import Checkpoint, read, sha256, write
from builders.checkpoints.pickles import Opaque

__all__ = ["Checkpoint", "CheckpointError", "Opaque", "all_finite", "choose", "read", "sha256", "write"]
