"""Files of runs in an object store: moto's S3 on loopback, by boto3; through MLflow's server, and from the run itself."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import pytest
from commands import TINY, run_command
from kills import patched
from mlflow.tracking import MlflowClient
from servers import Server, free_port

from ebm_pipeline import cli
from ebm_pipeline.tracking import records

boto3 = pytest.importorskip("boto3", reason="needs boto3: pip install 'moto[s3]'")
moto = pytest.importorskip("moto.server", reason="needs moto: pip install 'moto[s3]'")

pytestmark = pytest.mark.cluster

STEP = "ebm_pipeline.training.module.BoltzmannTraining.update"
WORDS = (
    *TINY,
    "model=rbm",
    "tracking.system_metrics=false",
    "evaluation.every_epochs=1",
    "tracking.register_as=bars@best",
)
THROUGH = ("--artifacts-destination",)
DIRECTLY = ("--no-serve-artifacts", "--default-artifact-root")


class Objects:
    """An S3 on loopback with one bucket, which keeps what it holds while it does not answer."""

    def __init__(self) -> None:
        self.port, self.secret = free_port(), secrets.token_hex(20)
        self.bucket = f"experiments-{self.port}"  # moto has one memory for all of its servers
        self.variables = {
            "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{self.port}", "AWS_ACCESS_KEY_ID": "student",
            "AWS_SECRET_ACCESS_KEY": self.secret, "AWS_DEFAULT_REGION": "us-east-1",
        }  # fmt: skip
        self.start()
        self._client().create_bucket(Bucket=self.bucket)

    def start(self) -> None:
        self.server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self.server.start()

    def stop(self) -> None:
        """From now on connections are refused."""
        self.server.stop()

    def _client(self) -> Any:
        return boto3.client(
            "s3", endpoint_url=self.variables["MLFLOW_S3_ENDPOINT_URL"], region_name="us-east-1",
            aws_access_key_id="student", aws_secret_access_key=self.secret,
        )  # fmt: skip

    def contents(self) -> dict[str, bytes]:
        """Every object by its key."""
        client = self._client()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
        return {key: client.get_object(Bucket=self.bucket, Key=key)["Body"].read() for key in keys}


@pytest.fixture
def objects() -> Iterator[Objects]:
    store = Objects()
    yield store
    store.stop()


@pytest.mark.parametrize("files", [THROUGH, DIRECTLY], ids=["through the server", "from the run"])
def test_a_run_keeps_its_files_in_an_object_store_that_goes_away_for_a_while(
    files: tuple[str, ...], objects: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs, elsewhere = tmp_path / "outputs", tmp_path / "elsewhere"
    (tmp_path / "server").mkdir()
    with Server(tmp_path / "server", (*files, f"s3://{objects.bucket}/mlflow"), objects.variables) as server:
        keys = objects.variables if files is DIRECTLY else {}  # those who go through the server need none
        variables = {"MLFLOW_TRACKING_URI": server.uri, **keys}
        with monkeypatch.context() as patch:
            patched(patch, STEP, 2, objects.stop)  # in the second epoch
            done = run_command(cli.train, *WORDS, output_root=outputs, variables=variables)
        assert done.code == 0, done.err
        assert "Traceback" not in done.err
        (folder,) = (outputs / "runs").iterdir()
        assert (folder / "unsent").exists()
        objects.start()
        sent = run_command(cli.sync, output_root=outputs, variables=variables)
        assert sent.code == 0, sent.err
        assert not (folder / "unsent").exists()

        run = records.find_run(server.uri, str(folder))
        assert run.status == "FINISHED"
        check_everything_is_there_once(objects.contents(), run.run_id, folder, server.uri)
        for name, of, root in (("fetched", "models:/bars@best", elsewhere), ("own", folder, outputs)):
            words = (f"run={of}", "task=fantasies", "count=4", f"hydra.run.dir={elsewhere / name}")
            drawn = run_command(cli.sample, *words, output_root=root, variables=variables)
            assert drawn.code == 0, drawn.err
        with h5py.File(elsewhere / "fetched/fantasies.h5") as one, h5py.File(elsewhere / "own/fantasies.h5") as other:
            assert set(one) == {"fantasies", "fantasy_means"}  # the run, which has its data, says labels too
            for array in one:
                assert (one[array][...] == other[array][...]).all(), array
    kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not [content for content in (*kept, *objects.contents().values()) if objects.secret.encode() in content]


def check_everything_is_there_once(contents: Mapping[str, bytes], run_id: str, folder: Path, uri: str) -> None:
    """The run's files, its pictures of each epoch and its three models, and nothing else."""
    own = {key: content for key, content in contents.items() if f"/{run_id}/artifacts/" in key}
    model = (folder / "model.h5").read_bytes()
    assert [content for key, content in own.items() if key.endswith("/model.h5")] == [model]
    pictures = [key for key in own if "/images/" in key and key.endswith(".png")]
    steps = [key.split("/images/")[1].split("+timestamp")[0] for key in pictures]
    assert len(steps) == len(set(steps)) > 2
    client = MlflowClient(uri)
    models = client.search_logged_models([client.get_run(run_id).info.experiment_id])
    assert {model.name for model in models} == {"result", "best", "last"}
    for logged in models:
        assert len([key for key in contents if f"/{logged.model_id}/artifacts/MLmodel" in key]) == 1
    assert len(own) + sum(any(f"/{one.model_id}/" in key for one in models) for key in contents) == len(contents)
