"""One pipeline from texts to answers; tags say which nodes train and which infer."""

from kedro.pipeline import Pipeline, node

from reviews.boosting import decode, measure, plot_importance, predict, split, train
from reviews.texts import fit_encoder, fit_tokenizer, lower, one_hot, remove_punctuation, remove_stop_words, to_list

TRAINING, BOTH, INFERENCE = ["training"], ["training", "inference"], ["inference"]


def create_pipeline() -> Pipeline:
    """The whole; ``only_nodes_with_tags`` takes what is wanted."""
    labels = [
        node(fit_encoder, {"labels": "labels"}, "label_encoder", tags=TRAINING),
        node(
            lambda encoder, labels: encoder.transform(labels["label"]),
            {"encoder": "label_encoder", "labels": "labels"},
            "encoded_labels",
            name="encode_labels",
            tags=TRAINING,
        ),
    ]
    texts = [
        node(lower, {"data": "instances"}, "text_lowered", tags=BOTH),
        node(
            remove_stop_words,
            {"data": "text_lowered", "stop_words": "english_stopwords"},
            "text_without_stop_words",
            tags=BOTH,
        ),
        node(remove_punctuation, {"data": "text_without_stop_words"}, "cleaned_text", tags=BOTH),
        node(to_list, {"data": "cleaned_text"}, "formatted_text", tags=BOTH),
        node(fit_tokenizer, {"texts": "formatted_text", "words": "params:vocab_size"}, "tokenizer", tags=TRAINING),
        node(one_hot, {"tokenizer": "tokenizer", "texts": "formatted_text"}, "one_hot_encoded_data", tags=BOTH),
    ]
    training = [
        node(
            split,
            {
                "features": "one_hot_encoded_data",
                "labels": "encoded_labels",
                "test_size": "params:early_stopping.test_size",
                "seed": "params:early_stopping.seed",
            },
            ["x_train", "x_test", "y_train", "y_test"],
            tags=TRAINING,
        ),
        node(
            train,
            {
                "x_train": "x_train",
                "x_test": "x_test",
                "y_train": "y_train",
                "y_test": "y_test",
                "settings": "params:xgb_hyperparameters",
                "rounds": "params:xgb_num_rounds",
                "patience": "params:early_stopping.rounds",
            },
            ["xgb_model", "xgb_history"],
            tags=TRAINING,
        ),
        node(measure, {"model": "xgb_model", "x": "x_test", "y": "y_test"}, "accuracy", tags=TRAINING),
        node(plot_importance, {"model": "xgb_model"}, "xgb_feature_importance", tags=TRAINING),
    ]
    inference = [
        node(predict, {"model": "xgb_model", "data": "one_hot_encoded_data"}, "xgb_predictions", tags=INFERENCE),
        node(decode, {"encoder": "label_encoder", "data": "xgb_predictions"}, "final_predictions", tags=INFERENCE),
    ]
    return Pipeline([*labels, *texts, *training, *inference])
