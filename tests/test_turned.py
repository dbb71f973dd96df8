"""A face that is turned away: what it hides, where its landmarks go, and that a failed one stops nobody."""
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from qcfer.core.yaw import pose_to_matrix
from qcfer.frontalize.head import MIRRORED, SIZE
from qcfer.frontalize.turned import TurnedAway

pytestmark = pytest.mark.skipif(not find_spec("anny"), reason="anny is not installed: pip install anny")


@pytest.fixture(scope="module")
def away():
    return TurnedAway()


def landmarks_of(away, pose):
    flat = 1150 * away._head.landmarks @ pose_to_matrix(pose)[:2].T
    return (flat - (flat[17:].min(0) + flat[17:].max(0)) / 2) * [1, -1] + SIZE / 2


@pytest.fixture(scope="module")
def face(away):
    "A picture that is red on the image's left half and green on its right one, and its landmarks."
    pixels = np.zeros((SIZE, SIZE, 3), np.float32)
    pixels[:, : SIZE // 2, 0] = pixels[:, SIZE // 2 :, 1] = 200
    return pixels, np.zeros(3), landmarks_of(away, (0, 0, 0))


@pytest.mark.parametrize("yaw", [40.0, 70.0, -70.0])
def test_the_half_that_is_turned_away_shrinks(away, face, yaw):
    view, points = away.turn(*face, yaw)
    middle = view[90:150, 60:164]
    near, far = (1, 0) if yaw < 0 else (0, 1)  # who looks to the image's right shows the half on the left
    assert (middle[..., near] > 100).sum() > 2 * (middle[..., far] > 100).sum()
    np.testing.assert_allclose(points, landmarks_of(away, (yaw, 0, 0)), atol=2.5)


def test_a_mirrored_face_is_turned_to_the_other_side(away, face):
    pixels, pose, points = face
    mirrored = (points * [-1, 1] + [SIZE, 0])[list(MIRRORED)]
    one, other = away.turn(pixels, pose, points, 55.0)[0], away.turn(pixels[:, ::-1].copy(), pose, mirrored, -55.0)[0]
    assert np.abs(one - other[:, ::-1]).mean() < 4


def test_a_picture_of_one_colour_stays_so(away, face):
    view, _ = away.turn(np.full((SIZE, SIZE, 3), 90, np.float32), *face[1:], 80.0)
    np.testing.assert_allclose(view, 90, atol=0.5)


def test_a_face_is_turned_as_its_key_says_alone_or_among_others_of_any_size(away, face):
    picture = Image.fromarray(face[0].astype(np.uint8))
    small = picture.resize((48, 48))
    faces = [picture, small, small], ["a", "b", "c"], np.zeros((3, 3)), np.stack([face[2], face[2] * 48 / SIZE, np.full((68, 2), np.nan)])
    first, second, failed = away.frontalize(*faces)
    assert first.size == second.size == (SIZE, SIZE) and "expected a face whose pose and landmarks are known" in str(failed)
    alone = away.frontalize(*(part[1:2] for part in faces))[0]
    np.testing.assert_array_equal(np.asarray(alone), np.asarray(second))
    assert away.yaw("a") == TurnedAway().yaw("a") != TurnedAway(1).yaw("a")


def test_numbers_have_ids_of_their_own(away):
    assert TurnedAway().id == away.id != TurnedAway(1).id
