"""What `pip install` gives: a wheel that works on its own, from any folder, with nothing from this checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("backbone", "seg", "det", "tools")


def run(*command: object, cwd: Path) -> str:
    """Runs a command without Python's variables of this process, and gives its output."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    child = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stdout + child.stderr
    return child.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Path:
    """The folder of programs of an environment that holds the wheel, and sees the libraries of this one."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy: building leaves files in its folder
    for name in (*PACKAGES, "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder, source, cwd=folder)
    (wheel,) = folder.glob("taproot-*.whl")

    venv.create(folder / "env", with_pip=False)
    programs = folder / "env" / "bin"
    run(*pip, "--python", programs / "python", "install", "--no-deps", "--no-index", wheel, cwd=folder)
    own = Path(
        run(programs / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    )
    # Libraries come from this environment, later on the path; its own .pth files, an editable taproot among them,
    # are not read from there.
    libraries = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (own / "libraries.pth").write_text("\n".join(sorted(libraries)) + "\n")
    return programs


@pytest.mark.slow
def test_the_wheel_holds_every_module_and_config(environment, tmp_path):
    code = "import tools; print(tools.__path__[0])"
    installed = Path(run(environment / "python", "-c", code, cwd=tmp_path).strip()).parent
    assert ROOT not in installed.parents
    for name in (*PACKAGES, "configs"):
        suffix = "*.yaml" if name == "configs" else "*.py"
        expected = {path.relative_to(ROOT) for path in (ROOT / name).rglob(suffix)}
        assert {path.relative_to(installed) for path in (installed / name).rglob(suffix)} == expected
    assert not (installed / "tests").exists()


@pytest.mark.slow
def test_the_installed_command_works_from_another_folder(environment, tmp_path):
    taproot = environment / "taproot"
    assert run(taproot, "--version", cwd=tmp_path).startswith("taproot ")
    assert "train-seg" in run(taproot, "--help", cwd=tmp_path)
    run(
        *(taproot, "make-demo-data", "--out", "world", "--train", 2, "--val", 1, "--clip-frames", 2),
        *("--height", 64, "--width", 128),
        cwd=tmp_path,
    )
    assert (tmp_path / "world" / "street.mp4").is_file()
    assert "mobilenet_v3_small" in run(taproot, "train-seg", "configs/demo/seg.yaml", "--print-config", cwd=tmp_path)


@pytest.mark.slow
def test_nothing_that_the_installed_packages_import_is_from_the_checkout(environment, tmp_path):
    code = (
        "import sys, backbone, seg, det, tools.predict, tools.train_seg\n"
        "seg.create(num_classes=2), det.create(num_classes=2)\n"
        "files = {getattr(module, '__file__', None) for module in list(sys.modules.values())} - {None}\n"
        "print(*files, sep='\\n')"
    )
    files = [Path(line) for line in run(environment / "python", "-c", code, cwd=tmp_path).splitlines()]
    assert any(file.parts[-2:] == ("seg", "model.py") for file in files)
    libraries = Path(sysconfig.get_path("purelib"))
    assert [file for file in files if ROOT in file.parents and libraries not in file.parents] == []
