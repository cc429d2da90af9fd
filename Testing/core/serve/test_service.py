"""The service in this process: what Core says, to the bit, for every operation; and how it refuses."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import SAMv2Core as s
from SAMv2Core.embedding.pca import embedding_pca
from SAMv2Core.errors import Cancelled, InputError, MemoryLimitError, ServerError, UsageError
from SAMv2Core.io.lesion import lesion_at
from SAMv2Core.matching.search_mask import LastRestricted, SearchMask, match_inside
from SAMv2Core.serve import service as service_module
from SAMv2Core.serve.client import Client, Mask, Scan, facts_of
from SAMv2Core.serve.frames import Frame, FrameError
from SAMv2Core.serve.service import HANDLERS, PROTOCOL, MissingError, Settings
from SAMv2Core.serve.values import encode
from SAMv2Core.tracking.diameters import match_ends
from Testing.core.serve.conftest import POINTS, InPlace, small_torso
from Testing.samples.small_service import SLOW, load, small_service


def plain(value):
    arrays = []
    return encode(value, arrays), [(a.dtype.str, a.shape, a.tobytes()) for a in arrays]


@pytest.fixture(scope="module")
def local():
    model = load("lite-test", "cpu")
    return [model.embed(small_torso(n)) for n in (0, 1)]


def do(service, operation, scans, values, **options):
    client = Client(InPlace(service))
    return client.run(client.steps(operation, scans, values, **options))


def of_pair(scans, first="template", second="query", **values):
    return lambda: {first: scans[0].source(), second: scans[1].source(), **values}


@pytest.mark.parametrize("method", ["fixed-point", "nearest", "paper"])
def test_matches_are_those_of_one_process(service, scans, local, method):
    found = do(service, "match", scans, of_pair(scans, points=POINTS, method=method))
    assert plain(found["value"]) == plain(s.match(*local, POINTS, method))


def test_places_and_maps_are_those_of_one_process(service, scans, local):
    found = do(service, "locate", scans, of_pair(scans, points=POINTS))
    assert plain(found["value"]) == plain(s.locate(*local, POINTS))
    found = do(service, "similarity_map", scans, of_pair(scans, points=POINTS[:1]))
    assert plain(found["value"]) == plain(s.similarity_map(*local, POINTS[0]))
    found = do(service, "colors", scans[:1], lambda: {"source": scans[0].source()})
    assert plain(found["value"]) == plain((embedding_pca(local[0]), local[0].fine.grid.ijk_to_lps))


def test_a_registration_is_that_of_one_process(service, scans, local):
    twice, volume = [scans[0]] * 2, scans[0].volume
    values = of_pair(twice, "fixed", "moving", transform="affine", seed=3, resampled=True)
    result, deformation, resampled = do(service, "register", twice, values)["value"]
    given = {"transform": "affine", "seed": 3, "fixed_volume": volume, "moving_volume": volume}
    expected = s.register(local[0], local[0], **given)
    assert plain(result) == plain(expected) and result.status != "failed" and deformation is None
    assert plain(resampled) == plain(s.resample_to(volume.grid, volume, result.matrix).array)


def test_tracks_are_those_of_one_process(service, scans, local):
    lesions = [lesion_at("L1", [0.0, 0, 130], 8.0), lesion_at("L2", [3.0, 4, 150], None)]
    verified = [s.Verified("L2", 1, np.array([2.0, 3, 150]))]
    drawn = {"L1": np.array([[-4.0, 0, 130], [4.0, 0, 130]])}
    values = {"lesions": lesions, "verified": verified, "drawn": drawn, "seed": 1}

    def arguments():
        return {"baseline": scans[0].source(), "follow_ups": [scans[1].source()], **values}

    findings, ends = do(service, "track", scans, arguments)["value"]
    expected = s.track(local[0], local[1:], lesions, verified=verified, seed=1)
    assert plain(findings) == plain(expected)
    here = [finding for finding in expected if finding.study == 1]
    assert plain(ends[0]) == plain(dict(match_ends(*local, drawn, here, None)))


def test_a_mask_narrows_the_search_and_its_name_stays_here(service, scans, local):
    volume = scans[1].volume
    array = np.zeros(volume.array.shape, bool)
    array[8:24, 6:22, 8:26] = True
    mask = SearchMask(("m", 1), "Müller's liver", array, volume.grid.lps_to_ijk, ("Nothing of Müller.", "Choose."))
    sent = Mask(mask)
    values = of_pair(scans, points=POINTS)
    found = do(service, "match", scans, lambda: {**values(), "inside": sent.content}, masks=[sent])
    assert plain(found["value"]) == plain(match_inside(*local, POINTS, "fixed-point", mask, LastRestricted()))
    nothing = Mask(SearchMask(("m", 2), "n", np.zeros_like(array), volume.grid.lps_to_ijk, ("c", "r")))
    with pytest.raises(InputError, match="refusal"):
        do(service, "match", scans, lambda: {**values(), "inside": nothing.content}, masks=[nothing])


def test_several_templates_give_the_answer_of_one_process(service, scans, local):
    """With the knobs that people turn; no segment is searched by several."""
    lists = [POINTS, np.where(np.arange(len(POINTS))[:, None] == 0, np.nan, POINTS)]
    knobs = {"starts_per_axis": 1, "matched_above": 0.97}

    def arguments(**others):
        sources = {"template": [scan.source() for scan in scans], "query": scans[1].source()}
        return {**sources, "points": lists, "method": "fixed-point", **knobs, **others}

    found = do(service, "match", [*scans, scans[1]], arguments)["value"]
    given = (local, local[1], lists, "fixed-point")
    assert plain(found) == plain(match_inside(*given, None, LastRestricted(), **knobs))
    assert [len(match.exemplars) for match in found] == [1, *[2] * (len(POINTS) - 1)]
    sure = max(range(1, len(POINTS)), key=lambda n: found[n].confidence)
    for step, status in ((-1e-6, "matched"), (1e-6, "uncertain")):
        cut = {**knobs, "matched_above": found[sure].confidence + step}
        assert match_inside(*given, None, LastRestricted(), **cut)[sure].status == status
    mask = SearchMask(
        ("m", 1), "m", np.ones(scans[1].volume.array.shape, bool), scans[1].volume.grid.lps_to_ijk, ("", "")
    )
    with pytest.raises(UsageError, match="one template only"):
        match_inside(*given, mask, LastRestricted())


def test_voxels_go_once_and_only_when_they_are_not_there(service, scans):
    seen, submit = [], service.submit
    service.submit = lambda client, frame, tell: seen.append(frame.header["op"]) or submit(client, frame, tell)
    do(service, "match", scans, of_pair(scans, points=POINTS, method="nearest"))
    assert seen == ["match", "put", "put", "match"]
    seen.clear()
    do(service, "match", scans, of_pair(scans, points=POINTS, method="nearest"))
    assert seen == ["match"]
    twins = [Scan(small_torso(0, "other.nii.gz"), "other"), scans[1]]
    do(service, "locate", twins, of_pair(twins, points=POINTS))
    assert seen == ["match", "locate"], "the same voxels under another name are the same scan"


def test_no_name_travels_and_every_name_is_told(service, scans):
    frames, texts, submit = [], [], service.submit
    service.submit = lambda client, frame, tell: (
        frames.append(frame.header)
        or submit(client, frame, lambda header, arrays: frames.append(header) or tell(header, arrays))
    )
    arguments = lambda: {"source": {**scans[0].source(), "modality": "mr"}}  # noqa: E731
    value = do(service, "embed", scans[:1], arguments, progress=lambda f, text, stage: texts.append(text))
    assert "Müller" not in repr(frames) and "nii" not in repr(frames)
    facts = facts_of(value, scans[:1])[0]
    assert "not trained on MR" in facts.warnings[-1] and all("Müller Anna 0" in text for text in facts.warnings)
    assert (facts.model, facts.modality) == ("lite-test", "mr")


def test_models_that_fit_are_chosen_once_for_all_scans(service, scans):
    asked = []
    service._default_model = lambda *modalities: asked.append(modalities) or "lite-test"
    for _ in range(2):
        facts = facts_of(do(service, "locate", scans, of_pair(scans, points=POINTS)), scans)
    assert asked == [("ct",)] and [item.key for item in facts] == ["lite-test"] * 2
    assert all(item.seconds is None for item in facts)


def test_a_small_store_works_as_long_as_one_request_fits(scans):
    service = small_service(keep_bytes=350_000)  # one embedding has 0.23 MB, a volume 0.05
    try:
        found = do(service, "embed", scans[:1], lambda: {"source": scans[0].source()})
        assert found["embeddings"][0]["seconds"] > 0
        service.store.limit_bytes = 40_000
        with pytest.raises(MemoryLimitError):
            do(service, "match", scans, of_pair(scans, points=POINTS))
    finally:
        service.close()


# --- refusals -------------------------------------------------------------------------------------------------------


def ask(service, operation, arguments=None, arrays=(), **header):
    """The last reply to one request."""
    replies = []
    request = {"v": PROTOCOL, "id": 1, "op": operation, "args": arguments or {}, **header}
    service.submit("x", Frame(request, tuple(arrays)), lambda reply, arrays: replies.append(reply))
    until = time.monotonic() + 30
    while not (replies and replies[-1]["kind"] != "progress") and time.monotonic() < until:
        time.sleep(0.005)
    return replies[-1]


def test_a_scan_that_is_not_what_its_hash_says_is_refused(service):
    volume = small_torso(0)
    args = {"content": "0" * 64, "ijk_to_lps": encode(volume.ijk_to_lps, []), "array": {"~": "array", "n": 0}}
    reply = ask(service, "put", args, [volume.array])
    assert (reply["kind"], reply["error"]) == ("error", "InputError")
    assert service.store.n_bytes() == 0


@pytest.mark.parametrize(
    "operation, arguments",
    [
        ("dance", {}),
        ("match", {}),
        ("match", {"template": 3, "query": {}}),
        ("match", {"template": {"content": ["x"]}, "query": {"content": "y"}}),
        ("embed", {"source": {"content": "y" * 9999}}),
        ("put", {"content": "x"}),
        ("put", {"content": "x", "array": 3}),
        ("put_mask", {"content": "x", "shape_zyx": [1, 2], "bits": 3}),
        ("track", {"baseline": {"content": "x"}}),
        ("landmarks", {"source": {"content": "x"}, "atlas": "/etc/passwd"}),
        ("forget", {"contents": "x"}),
    ],
)
def test_requests_without_sense_are_answered(service, operation, arguments):
    reply = ask(service, operation, arguments)
    assert reply["kind"] == "error" and reply["error"] == "UsageError", reply


def test_a_client_cannot_name_files(scans):
    for allowed in (None, ("lite-ct",)):
        service = small_service(models=allowed)
        service._load_model = None  # the models that are really here
        try:
            with pytest.raises(UsageError, match="no model"):
                source = lambda: {"source": {**scans[0].source(), "model": "/etc/passwd"}}  # noqa: E731
                do(service, "embed", scans[:1], source)
        finally:
            service.close()


def test_another_version_and_no_request_at_all(service):
    assert ask(service, "hello", v=PROTOCOL + 1)["error"] == "ServerError"
    assert ask(service, "hello")["value"]["protocol"] == PROTOCOL
    for header in ({}, {"id": "1", "op": "hello"}, {"id": True, "op": "hello"}, {"id": 1}, {"id": 1, "op": 5}):
        with pytest.raises(FrameError):
            service.submit("x", Frame({"v": PROTOCOL, **header}), lambda *reply: None)


def test_cancelling_ends_the_work_and_nobody_elses(service, scans):
    slow = [Scan(scans[0].volume, "slow", options={"model": SLOW})]
    first, second = Client(InPlace(service, "first")), Client(InPlace(service, "second"))

    def stop(fraction, text, stage):
        if stage == "embed":
            raise Cancelled()

    with pytest.raises(Cancelled):
        first.run(first.steps("embed", slow, lambda: {"source": slow[0].source()}, stop))
    found = second.run(second.steps("embed", scans[1:], lambda: {"source": scans[1].source()}))
    assert found["embeddings"][0]["model"] == "lite-test"
    until = time.monotonic() + 10
    while first.is_waiting() and time.monotonic() < until:
        first.poll(0.01)
    assert not first.is_waiting() and not first.is_stuck(0.0)


def test_what_is_quick_does_not_wait_for_an_embedding(service, scans):
    do(service, "locate", scans, of_pair(scans, points=POINTS))
    slow = Client(InPlace(service, "slow"))
    third = Scan(small_torso(2), "third", options={"model": SLOW})
    steps = slow.steps("embed", [third], lambda: {"source": third.source()})
    texts = []
    steps = slow.steps("embed", [third], lambda: {"source": third.source()}, lambda f, text, g: texts.append(text))
    until = time.monotonic() + 20
    while "slowly" not in texts and time.monotonic() < until:
        next(steps)
        slow.poll()
        time.sleep(0.005)
    for method in ("nearest", "fixed-point"):
        do(service, "match", scans, of_pair(scans, points=POINTS, method=method))
    next(steps)  # still at it
    steps.close()


@pytest.mark.parametrize("is_trusting", [True, False])
def test_an_embedding_rests_while_the_users_own_cursor_moves(scans, monkeypatch, is_trusting):
    """Not for another user of a server; and one that rests can be cancelled."""
    monkeypatch.setattr(service_module, "REST_SECONDS", 1e6)
    monkeypatch.setattr(service_module, "MOST_REST_SECONDS", 1e6)
    service, twice = small_service(is_trusting=is_trusting), [scans[0]] * 2
    do(service, "locate", twice, of_pair(twice, points=POINTS))
    do(service, "locate", twice, of_pair(twice, points=POINTS))  # the first one had to embed it
    slow, texts = Client(InPlace(service)), []
    third = Scan(small_torso(2), "third", options={"model": SLOW})
    steps = slow.steps("embed", [third], lambda: {"source": third.source()}, lambda f, text, g: texts.append(text))
    until = time.monotonic() + (1 if is_trusting else 20)
    while "slowly" not in texts and time.monotonic() < until:
        next(steps)
        slow.poll(0.01)
    assert ("slowly" in texts) is not is_trusting
    steps.close()
    until = time.monotonic() + 10
    while slow.is_waiting() and time.monotonic() < until:
        slow.poll(0.01)
    assert not slow.is_waiting()
    service.close()


def test_an_embedding_goes_on_soon_after_the_cursor_rests_and_at_times_while_it_moves(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(service_module.time, "monotonic", lambda: now[0])
    service = small_service(is_trusting=True)

    def request(moves_until):
        def wait(seconds):
            now[0] += seconds
            service._last_quick = max(service._last_quick, min(now[0], moves_until))

        return SimpleNamespace(is_cancelled=SimpleNamespace(wait=wait))

    for moves_until, rest in ((100.0, 0.25), (103.0, 3.25), (200.0, 5.0)):
        now[0] = service._last_quick = 100.0
        service.rest(request(moves_until))
        assert now[0] - 100.0 == pytest.approx(rest, abs=0.026)  # a tenth of the shortest rest
    now[0] = 300.0
    service.rest(request(0.0))
    assert now[0] == 300.0


def test_few_points_are_work_for_one_thread_and_all_else_for_as_many_as_there_are(monkeypatch):
    def count(self, request):
        return {"value": torch.get_num_threads()}

    for operation in ("locate", "match", "register"):
        monkeypatch.setitem(HANDLERS, operation, count)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    service = small_service()
    monkeypatch.setattr(service, "_are_embedded", lambda sources: True)

    def threads(operation, n_points=1, method="fixed-point"):
        arrays = []
        points = encode(np.zeros((n_points, 3)), arrays)
        return ask(service, operation, {"points": points, "method": method}, arrays)["value"]["value"]

    try:
        few = [threads("locate"), threads("match", 50, "nearest"), threads("match"), threads("match", 4)]
        many = [threads("register"), threads("match", 5), threads("register")]
        assert (few, many, torch.get_num_threads()) == ([1] * 4, [3] * 3, 3)
    finally:
        torch.set_num_threads(before)
        service.close()


def test_the_service_is_not_the_place_for_other_errors(service):
    assert isinstance(MissingError(["a"]), s.SAMv2Error) and Settings().is_trusting is False
    with pytest.raises(ServerError):
        client = Client(InPlace(service))
        lost = Scan(None, "lost", content="f" * 64)
        client.run(client.steps("embed", [lost], lambda: {"source": lost.source()}))
