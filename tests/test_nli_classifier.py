import numpy as np
import pytest
import torch
from stlib.nli_classifier import NLIClassifier, pair_features

from stlib.errors import UsageError
from tests.tiny import SIZE

PREMISES = ["A man is sleeping.", "Two dogs are running in a park."]
HYPOTHESES = ["A person is resting.", "Two cats are running in a park."]


@pytest.fixture(scope="module")
def classifier(tiny):
    torch.manual_seed(0)
    return NLIClassifier(tiny, torch.nn.Linear(3 * SIZE, 3))


def test_features_are_u_v_and_their_difference():
    u, v = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 1.0]])
    assert pair_features(u, v).tolist() == [[1, 2, 3, 1, 2, 1]]


def test_probabilities_sum_to_one_and_predict_is_their_argmax(classifier):
    probabilities = classifier.predict_proba(PREMISES, HYPOTHESES)
    assert probabilities.shape == (2, 3)
    assert probabilities.sum(axis=1) == pytest.approx([1, 1], abs=1e-6)
    assert classifier.predict(PREMISES, HYPOTHESES) == [classifier.labels[i] for i in probabilities.argmax(axis=1)]


def test_the_library_computes_the_same_scores(classifier, tiny):
    from sentence_transformers.sentence_transformer.losses import SoftmaxLoss

    loss = SoftmaxLoss(tiny, SIZE, 3)
    loss.classifier.load_state_dict(classifier.head.state_dict())
    tiny.eval()
    with torch.no_grad():
        _, theirs = loss([tiny.preprocess(PREMISES), tiny.preprocess(HYPOTHESES)], None)
    torch.testing.assert_close(classifier.logits(PREMISES, HYPOTHESES), theirs, atol=1e-5, rtol=1e-4)


def test_saved_and_loaded_it_answers_the_same(classifier, tmp_path):
    classifier.save(tmp_path / "model")
    loaded = NLIClassifier.load(tmp_path / "model", device="cpu")
    np.testing.assert_array_equal(
        loaded.predict_proba(PREMISES, HYPOTHESES), classifier.predict_proba(PREMISES, HYPOTHESES)
    )
    assert loaded.labels == ("entailment", "neutral", "contradiction")


def test_no_pairs_give_no_answers(classifier):
    assert classifier.predict([], []) == []


def test_unequal_columns_are_refused(classifier):
    with pytest.raises(UsageError, match="1 premises and 2 hypotheses"):
        classifier.predict(["one"], ["one", "two"])


def test_a_head_of_another_size_is_refused(tiny):
    with pytest.raises(UsageError, match=f"the head maps {2 * SIZE} features .* need {3 * SIZE} "):
        NLIClassifier(tiny, torch.nn.Linear(2 * SIZE, 3))
