"""The networks that `tools.benchmark backbone` compares: our name -> timm's."""

TIMM_NAMES = {
    "mobilenet_v3_large": "mobilenetv3_large_100",
    "mobilenet_v3_small": "mobilenetv3_small_100",
    "mobilenet_v2": "mobilenetv2_100",
    "mnasnet_a1": "semnasnet_100",
    "mobilenet_v4_conv_small": "mobilenetv4_conv_small",
}
