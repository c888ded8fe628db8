//! What a `config.json` is read as, and which ones are refused.

use proptest::prelude::*;

use super::*;

fn read(value: Value) -> Result<ClipConfig, ConfigError> {
    ClipConfig::from_json(&value.to_string())
}

#[test]
fn an_empty_config_is_vit_b_32() {
    let config = read(json!({})).unwrap();
    assert_eq!(config, ClipConfig::default());
    let vision = config.vision.unwrap();
    assert_eq!(
        (vision.tower.transformer.hidden_size, vision.tower.num_positions(), vision.projection_dim),
        (768, 50, 512)
    );
    assert_eq!(config.text.unwrap().tower.pooling, TextPooling::FirstOf(49407));
}

#[test]
fn what_is_written_reads_back_the_same() {
    let mut config = ClipConfig::default();
    config.text.as_mut().unwrap().tower.pooling = TextPooling::HighestId;
    config.vision.as_mut().unwrap().tower.transformer.hidden_act = Activation::GeluNew;
    config.vision.as_mut().unwrap().tower.transformer.layer_norm_eps = 1e-6;
    assert_eq!(ClipConfig::from_json(&config.to_json()).unwrap(), config);
}

#[test]
fn metaclip_2_is_clip_under_other_names_and_pools_at_its_end_token() {
    let towers = json!({"model_type": "metaclip_2", "architectures": ["MetaClip2Model"], "text_config": {
        "model_type": "metaclip_2_text_model", "eos_token_id": 2}, "vision_config": {"model_type": "metaclip_2_vision_model"}});
    let config = read(towers).unwrap();
    assert_eq!((config.family, config.architecture), (Family::MetaClip2, Architecture::Clip));
    assert_eq!(config.text.as_ref().unwrap().tower.pooling, TextPooling::FirstOf(2));
    assert_eq!(ClipConfig::from_json(&config.to_json()).unwrap(), config);
    let single = json!({"model_type": "metaclip_2_text_model", "architectures": ["MetaClip2TextModel"]});
    assert_eq!(read(single).unwrap().architecture, Architecture::Text);
    let mixed = read(json!({"model_type": "metaclip_2", "architectures": ["CLIPModel"]})).unwrap_err();
    assert!(mixed.to_string().contains("MetaClip2Model"), "{mixed}");
    let mixed = read(json!({"model_type": "metaclip_2", "text_config": {"model_type": "clip_text_model"}}));
    assert!(mixed.unwrap_err().to_string().contains("metaclip_2_text_model"));
}

#[test]
fn clip_model_takes_the_projection_from_the_top_and_single_towers_from_the_tower() {
    let nested =
        json!({"projection_dim": 7, "text_config": {"projection_dim": 9}, "vision_config": {"projection_dim": 9}});
    assert_eq!(read(nested.clone()).unwrap().text.unwrap().projection_dim, 7);
    let mut single = nested;
    single["architectures"] = json!(["CLIPTextModelWithProjection"]);
    let single = read(single).unwrap();
    assert_eq!((single.text.unwrap().projection_dim, single.vision), (9, None));
    let flat = read(json!({"model_type": "clip_vision_model", "projection_dim": 5})).unwrap();
    assert_eq!((flat.vision.unwrap().projection_dim, flat.text), (5, None));
}

#[test]
fn an_old_config_dict_replaces_the_tower_whole() {
    let old = json!({
        "text_config": {"eos_token_id": 2, "hidden_size": 64},
        "text_config_dict": {"hidden_size": 768, "num_attention_heads": 12},
        "vision_config_dict": null
    });
    let text = read(old).unwrap().text.unwrap().tower;
    assert_eq!((text.transformer.hidden_size, text.pooling), (768, TextPooling::FirstOf(49407)));
}

#[test]
fn errors_name_the_field() {
    let cases = [
        (json!({"vision_config": {"hidden_size": "768"}}), "field `vision_config.hidden_size` is \"768\""),
        (json!({"vision_config": {"hidden_size": 0}}), "vision_config.hidden_size"),
        (json!({"vision_config": {"image_size": [224, 224]}}), "vision_config.image_size"),
        (json!({"vision_config": {"patch_size": 225}}), "at most image_size (224)"),
        (json!({"text_config": {"num_attention_heads": 7}}), "divisor of hidden_size (512)"),
        (json!({"text_config": {"hidden_act": "swiglu"}}), "text_config.hidden_act"),
        (json!({"text_config": {"max_position_embeddings": 4097}}), "text_config.max_position_embeddings"),
        (json!({"text_config": {"eos_token_id": [1, 2]}}), "text_config.eos_token_id"),
        (json!({"text_config": {"layer_norm_eps": null}}), "text_config.layer_norm_eps"),
        (json!({"text_config": {"hidden_sise": 3}}), "unknown field `text_config.hidden_sise`"),
        (json!({"pruned_heads": {"0": [1]}}), "unknown field `pruned_heads`"),
        (json!({"quantization_config": {"bits": 4}}), "unknown field `quantization_config`"),
        (json!({"model_type": "siglip"}), "field `model_type` is \"siglip\", expected one of clip, "),
        (json!({"architectures": ["CLIPForImageClassification"]}), "architectures"),
        (json!([]), "not a JSON object"),
    ];
    for (value, part) in cases {
        let message = read(value.clone()).expect_err(&value.to_string()).to_string();
        assert!(message.contains(part), "{value}: {message}");
    }
}

proptest! {
    #[test]
    fn a_config_that_reads_can_be_built(field in "[a-z_]{1,12}|hidden_size|image_size|patch_size|num_attention_heads",
                                        value in prop_oneof![any::<i64>().prop_map(Value::from), any::<f64>().prop_map(Value::from)]) {
        let config = json!({"vision_config": {field.clone(): value.clone()}, "text_config": {field: value}});
        if let Ok(config) = read(config) {
            let vision = config.vision.unwrap().tower;
            prop_assert!(vision.grid() >= 1 && vision.num_positions() > 1);
            let t = vision.transformer;
            prop_assert_eq!(t.hidden_size % t.num_attention_heads, 0);
        }
    }
}

#[test]
fn the_clutter_of_old_checkpoints_is_accepted() {
    let config = json!({
        "_commit_hash": null, "architectures": ["CLIPModel"], "initializer_factor": 1.0, "torch_dtype": "float32",
        "text_config": {"attention_dropout": 0.0, "bad_words_ids": null, "dropout": 0.0, "pruned_heads": {}, "id2label":
        {"0": "LABEL_0"}, "top_k": 50, "model_type": "clip_text_model", "bos_token_id": 0, "pad_token_id": 1},
        "text_config_dict": null, "transformers_version": null
    });
    assert!(read(config).is_ok());
}
