import io
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.services.proxy import Fault, Proxy, cuts, proxy
from tests.services.s3 import Gateway
from xmodal.data.storage.s3 import S3Config, S3Storage
from xmodal.errors import UserError

pytestmark = pytest.mark.s3
DATA = random.Random(0).randbytes(3_000_000)
VARIABLES = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "AWS_SESSION_TOKEN")


@pytest.fixture(autouse=True)
def _environment(s3: Gateway, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(scope="module")
def bucket(s3: Gateway) -> str:
    return s3.bucket()


@pytest.fixture(scope="module")
def url(s3: Gateway, bucket: str) -> str:
    by(s3).build().write(f"{bucket}/data", DATA)
    return f"{bucket}/data"


@pytest.fixture
def network(s3: Gateway) -> Iterator[Proxy]:
    with proxy(s3.port) as opened:
        yield opened


def by(server: Gateway | Proxy, **more: Any) -> S3Config:
    keys = server.places if isinstance(server, Gateway) else {}
    return S3Config(endpoint=server.endpoint, **keys, **more)


def quiet(config: S3Config | None = None) -> tuple[S3Storage, list[str]]:
    storage, said = (config or S3Config()).build(), list[str]()
    storage.say = said.append
    return storage, said


def uploads(storage: S3Storage, bucket: str) -> list[dict]:
    found = storage._filesystem.call_s3(
        "list_multipart_uploads", Bucket=bucket.removeprefix("s3://")
    )
    return list(found.get("Uploads", []))


@pytest.mark.parametrize(
    ("start", "stop"),
    [(0, None), (5, None), (0, 10), (7, 2_000_000), (2_999_999, 3_000_005), (3_000_000, None),
     (3_000_000, 4_000_000), (5_000_000, 5_000_001), (4, 4)],
)  # fmt: skip
def test_a_part_is_what_slicing_gives(url: str, start: int, stop: int | None) -> None:
    assert S3Storage().read(url, start, stop) == DATA[start:stop]


def test_an_empty_object(bucket: str) -> None:
    storage = S3Storage()
    storage.write(f"{bucket}/empty", b"")
    with storage.create(f"{bucket}/empty too"):
        pass
    for name in ("empty", "empty too"):
        assert storage.read(f"{bucket}/{name}") == b""
        assert storage.read(f"{bucket}/{name}", 0, 10) == b""
        assert storage.open(f"{bucket}/{name}").read() == b""


def test_listing_is_of_one_level_and_all_its_pages(s3: Gateway) -> None:
    storage, folder = S3Storage(), f"{s3.bucket()}/a folder"
    storage._filesystem.s3_additional_kwargs["MaxKeys"] = 10
    names = [f"file {number:04d}" for number in range(35)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: storage.write(f"{folder}/{name}", name.encode()), names))
    storage.write(f"{folder}/below/more", b"more")
    storage.write(f"{folder} of another name/file", b"")
    assert storage.list(folder) == dict.fromkeys(names, 9)
    assert storage.list(folder + "/") == dict.fromkeys(names, 9)
    assert storage.folders(folder) == ["below"]
    assert storage.folders(folder.rpartition("/")[0]) == ["a folder", "a folder of another name"]
    assert storage.list(f"{folder}/none") == {}


def test_listings_are_never_old(bucket: str) -> None:
    reading, writing = S3Storage(), S3Storage()
    assert reading.list(f"{bucket}/fresh") == {}
    writing.write(f"{bucket}/fresh/one", b"1")
    assert reading.list(f"{bucket}/fresh") == {"one": 1}
    before = reading.identity(f"{bucket}/fresh/one")
    writing.write(f"{bucket}/fresh/one", b"2")
    assert reading.identity(f"{bucket}/fresh/one") != before
    writing.remove(f"{bucket}/fresh/one")
    assert reading.list(f"{bucket}/fresh") == {}


def test_what_is_not_there(bucket: str) -> None:
    storage = S3Storage()
    for operation in (storage.read, storage.identity, storage.open, storage.remove):
        with pytest.raises(FileNotFoundError):
            operation(f"{bucket}/none")
    with pytest.raises(FileNotFoundError):
        storage.read(f"{bucket}/none", 3, 4)


WRONG = {
    "access key is not known": {"key": "nobody", "secret": "x"},
    "secret key is not that": {"key": "accesskeyoftests", "secret": "x"},
    "access is denied": {"anonymous": True},
    "cannot be reached": {"endpoint": "http://127.0.0.1:1"},
    "cannot be reached .*resol|cannot be reached .*known": {"endpoint": "http://none.invalid"},
    "cannot be reached .*SSL": {"endpoint": "https"},
    "Invalid endpoint": {"endpoint": "not a url"},
    "profile .nobody.": {"profile": "nobody"},
}  # fmt: skip


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_configuration_is_one_line_in_seconds(
    s3: Gateway, bucket: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = dict(WRONG[line])
    for name in given.keys() & {"key", "secret"}:
        monkeypatch.setenv(f"OUR_{name}", given[name])
        given[name] = {"variable": f"OUR_{name}"}
    if given.get("endpoint") == "https":
        given = {"endpoint": s3.endpoint.replace("http", "https")}
    storage, said = quiet(S3Config(**given))
    begun = time.monotonic()
    with pytest.raises(UserError, match=line) as raised:
        storage.list(bucket)
    assert time.monotonic() - begun < 60  # of a patience of ten minutes
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith(bucket)
    assert not said


def test_no_such_bucket_and_none_at_all(s3: Gateway) -> None:
    with pytest.raises(UserError, match=f"no such bucket at {s3.endpoint}"):
        S3Storage().list("s3://nobodys/x")
    with (
        pytest.raises(UserError, match="no such bucket"),
        S3Storage().create("s3://nobodys/x"),
    ):
        pass
    with pytest.raises(UserError, match="names no bucket"):
        S3Storage().list("s3://")


def test_without_credentials(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(UserError, match=r"no credentials for .*AWS_ACCESS_KEY_ID.*AWS_PROFILE"):
        S3Storage().list(bucket)


@pytest.mark.parametrize("way", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "profile", "recipe"])
def test_the_ways_to_name_an_endpoint(
    s3: Gateway, url: str, way: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in s3.environment:
        monkeypatch.delenv(name)
    config: dict[str, Any] = dict(s3.places)
    if way == "recipe":
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        config["endpoint"] = s3.endpoint
    elif way == "profile":
        keys = f"aws_access_key_id={s3.key}\naws_secret_access_key={s3.secret}"
        text = f"[profile mine]\nendpoint_url={s3.endpoint}\nregion=default\n{keys}\n"
        (tmp_path / "AWS_CONFIG_FILE").write_text(text)
        config = {"profile": "mine"}
    else:
        monkeypatch.setenv(way, s3.endpoint)
    assert S3Config(**config).build().read(url, 0, 4) == DATA[:4]


def test_a_public_bucket_without_keys(s3: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, bucket = S3Storage(), s3.bucket()
    storage.write(f"{bucket}/file", b"public")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    name = bucket.removeprefix("s3://")
    storage._filesystem.call_s3("put_bucket_acl", Bucket=name, ACL="public-read")
    storage._filesystem.call_s3("put_object_acl", Bucket=name, Key="file", ACL="public-read")
    assert S3Storage(anonymous=True).read(f"{bucket}/file") == b"public"
    script = (
        "from xmodal.data.storage import open_storage\n"
        f"print(open_storage('s3://').list('{bucket}'))"
    )
    environment = os.environ | {"FSSPEC_S3_ANON": "true"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True
    )
    assert done.stdout == "{'file': 6}\n", done.stderr


@pytest.mark.parametrize("seed", range(3))
def test_connections_cut_at_random_change_no_byte(url: str, network: Proxy, seed: int) -> None:
    storage, said = quiet(by(network))
    storage.list(url.rpartition("/")[0])
    network.befall(cuts(seed, within=400_000))
    assert storage.read(url) == DATA
    assert storage.read(url, 1000, 2_500_000) == DATA[1000:2_500_000]
    assert network.num_cut > 5
    assert len(said) > 5
    assert all(line.startswith(f"{url}: ") and " at byte " in line for line in said)


def test_cut_connections_do_not_break_a_scanned_tar(bucket: str, network: Proxy) -> None:
    storage, _ = quiet(by(network))
    draw = random.Random(0)
    files = {f"{number}.bin": draw.randbytes(draw.randrange(400_000)) for number in range(120)}
    with storage.create(f"{bucket}/tar") as file, tarfile.open(fileobj=file, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    network.befall(cuts(0, within=3_000_000))
    with storage.open(f"{bucket}/tar") as file, tarfile.open(fileobj=file, mode="r:") as tar:
        read = {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]
    assert read == files
    assert network.num_cut > 3


def test_a_file_that_is_read_can_jump(bucket: str) -> None:
    storage, data = S3Storage(), random.Random(1).randbytes(20 * 2**20)
    storage.write(f"{bucket}/long", data)
    draw = random.Random(2)
    with storage.open(f"{bucket}/long") as file:
        for start in [0, 8 * 2**20, 100, len(data), len(data) + 9 * 2**20, *(
            draw.randrange(len(data)) for _ in range(10))]:  # fmt: skip
            file.seek(start)
            assert file.read(3_000_000) == data[start : start + 3_000_000]
            assert file.tell() == max(start, min(start + 3_000_000, len(data)))


def test_a_stalled_read_goes_on(url: str, network: Proxy) -> None:
    storage, said = quiet(by(network, timeout=0.5))
    storage.read(url, 0, 1)
    network.befall([Fault(1_000_000, stalls=True)])
    assert storage.read(url) == DATA
    assert network.num_stalled == 1
    (line,) = said
    assert "no byte came in time at byte" in line


def test_a_gateway_that_is_lost_and_comes_back(s3: Gateway, url: str) -> None:
    storage, said = quiet(by(s3))
    starts = range(0, 1_000_000, 5000)
    with ThreadPoolExecutor(16) as pool:
        reads = [pool.submit(storage.read, url, start, start + 2_000_000) for start in starts]
        reads[20].result()
        s3.stop()
        time.sleep(1)
        s3.start()
        for start, read in zip(starts, reads, strict=True):
            assert read.result() == DATA[start : start + 2_000_000]
    assert said


def test_patience_ends(url: str, network: Proxy) -> None:
    storage, said = quiet(by(network, patience=1))
    assert storage.read(url, 0, 9)
    network.close()
    with pytest.raises(UserError, match=r"gave no byte for \d s .* is http.* up\?"):
        storage.read(url)
    assert said


def test_an_object_that_changes_while_it_is_read(bucket: str, network: Proxy) -> None:
    storage, _ = quiet(by(network, timeout=3))
    storage.write(f"{bucket}/changing", DATA)
    network.befall([Fault(1_000_000, stalls=True)])
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(storage.read, f"{bucket}/changing")
        while not network.num_stalled:
            time.sleep(0.01)
        S3Storage().write(f"{bucket}/changing", DATA[::-1])
        with pytest.raises(UserError, match="was changed while it was read"):
            reading.result()


@pytest.mark.parametrize("num_bytes", [100, 40 * 2**20])
def test_an_upload_that_fails_leaves_the_old_object(bucket: str, num_bytes: int) -> None:
    storage = S3Storage()
    storage.write(f"{bucket}/kept", b"old")
    with suppress(ZeroDivisionError), storage.create(f"{bucket}/kept") as file:
        file.write(bytes(num_bytes))
        raise ZeroDivisionError
    assert storage.read(f"{bucket}/kept") == b"old"
    assert not uploads(storage, bucket)


def test_an_upload_through_cut_connections(bucket: str, network: Proxy) -> None:
    storage, said = quiet(by(network))
    storage.list(bucket)
    data = random.Random(0).randbytes(17 * 2**20)
    for seed in range(3):
        network.befall(cuts(seed, within=1500))
        with storage.create(f"{bucket}/uploaded {seed}") as file:
            for start in range(0, len(data), 1_000_000):
                file.write(data[start : start + 1_000_000])
            assert file.tell() == len(data)
        network.befall([])
        assert storage.read(f"{bucket}/uploaded {seed}") == data
    assert len(said) > 3
    assert not uploads(storage, bucket)


def test_a_killed_upload_leaves_no_object_and_its_parts_go(bucket: str, tmp_path: Path) -> None:
    storage, url = S3Storage(), f"{bucket}/killed"
    script = (
        "from xmodal.data.storage import open_storage\n"
        f"with open_storage('{url}').create('{url}') as file:\n"
        "    for number in range(5): file.write(bytes(9_000_000))\n"
        "    print('half', flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout
    assert process.stdout.readline() == b"half\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert "killed" not in storage.list(bucket)
    assert [upload["Key"] for upload in uploads(storage, bucket)] == ["killed"]
    with storage.create(url) as file:
        file.write(b"whole")
    assert storage.read(url) == b"whole"
    assert not uploads(storage, bucket)


def test_threads_read_at_once(url: str) -> None:
    storage = S3Storage()
    starts = range(0, 2_900_000, 20_000)
    with ThreadPoolExecutor(16) as pool:
        read = list(pool.map(lambda start: storage.read(url, start, start + 50_000), starts))
    assert read == [DATA[start : start + 50_000] for start in starts]


def reads_right(storage: S3Storage, url: str) -> None:
    os._exit(0 if storage.read(url, 5, 50_000) == DATA[5:50_000] else 1)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_read_while_the_parent_does(url: str, method: str) -> None:
    storage, context = S3Storage(), multiprocessing.get_context(method)
    assert storage.read(url, 0, 9) == DATA[:9]
    stop = threading.Event()

    def go_on() -> None:
        while not stop.is_set():
            assert storage.read(url) == DATA

    with ThreadPoolExecutor(2) as pool:
        parents = [pool.submit(go_on) for _ in range(2)]
        children = [context.Process(target=reads_right, args=(storage, url)) for _ in range(2)]
        for child in children:
            child.start()
        for child in children:
            child.join(30)
        stop.set()
        for parent in parents:
            parent.result(10)
    assert [child.exitcode for child in children] == [0] * 2


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAID", "hush")
    storage = S3Config(key={"variable": "SAID"}, secret={"variable": "SAID"}).build()
    assert "hush" not in repr(vars(storage))
    assert "hush" not in repr(vars(pickle.loads(pickle.dumps(storage))))
