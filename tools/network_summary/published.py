"""Parameters and multiply-adds as the papers print them."""

from typing import NamedTuple


class Published(NamedTuple):
    """A network as a paper counts it."""

    name: str
    width: float
    size: int  # of the square input
    parameters: float | None  # millions; None: not printed there
    macs: float | None  # millions
    source: str
    note: str = ""  # why ours differ by more than the printed digit or 3 %


V3 = "1905.02244 table 9"
V3_TABLE_3 = "1905.02244 table 3"
V3_TABLES = "1905.02244 tables 3, 9"
CHAMNET = "1812.08934, its README"
LITE = "official README"
LITE_NOTE = "MACs counted there with norms and activations, as about three operations a value"
PUBLISHED = (
    Published("mobilenet_v1", 1.0, 224, 4.2, 569, "1704.04861 table 8"),
    Published("mobilenet_v2", 1.0, 224, 3.4, 300, V3_TABLE_3),
    Published("mobilenet_v2", 0.35, 224, 1.6, 59.2, V3_TABLE_3),
    Published("mobilenet_v3_large", 1.25, 224, 7.5, 356, V3),
    Published("mobilenet_v3_large", 1.0, 224, 5.4, 217, V3),
    Published("mobilenet_v3_large", 1.0, 224, 5.4, 219, V3_TABLE_3),
    Published("mobilenet_v3_large", 0.75, 224, 4.0, 155, V3_TABLES),
    Published("mobilenet_v3_large", 0.5, 224, 2.6, 69, V3),
    Published(
        *("mobilenet_v3_large", 0.35, 224, 2.2, 40, V3),
        note="parameters unexplained: counted as at the other widths, and as Small's 1.4",
    ),
    Published("mobilenet_v3_large", 1.0, 256, None, 282, V3),
    Published("mobilenet_v3_large", 1.0, 192, None, 160, V3),
    Published("mobilenet_v3_large", 1.0, 160, None, 112, V3),
    Published("mobilenet_v3_large", 1.0, 128, None, 73, V3),
    Published("mobilenet_v3_large", 1.0, 96, None, 43, V3),
    Published("mobilenet_v3_large_minimalistic", 1.0, 224, 3.9, 209, "official README"),
    Published("mobilenet_v3_small", 1.25, 224, 3.6, 91, V3),
    Published("mobilenet_v3_small", 1.0, 224, 2.5, 57, V3),
    Published("mobilenet_v3_small", 1.0, 224, 2.5, 56, V3_TABLE_3),
    Published("mobilenet_v3_small", 0.75, 224, 2.0, 44, V3_TABLES),
    Published("mobilenet_v3_small", 0.5, 224, 1.6, 21, V3),
    Published("mobilenet_v3_small", 0.35, 224, 1.4, 12, V3, "MACs printed without decimals, cut off"),
    Published("mobilenet_v3_small", 1.0, 256, None, 74, V3),
    Published("mobilenet_v3_small", 1.0, 160, None, 30, V3),
    Published("mobilenet_v3_small", 1.0, 128, None, 20, V3),
    Published("mobilenet_v3_small", 1.0, 96, None, 12, V3),
    Published(
        *("mobilenet_v3_small_minimalistic", 1.0, 224, 2.0, 65, "official README"),
        note="MACs unexplained: the published weights have these shapes",
    ),
    Published("mnasnet_a1", 1.0, 224, 3.9, 315, V3_TABLE_3),
    Published(
        *("mnasnet_small", 1.0, 224, 1.9, 65.1, V3_TABLE_3),
        note="the paper prints no layers; these are the official code's",
    ),
    Published("efficientnet_lite0", 1.0, 224, 4.7, 407, LITE, LITE_NOTE),
    Published("efficientnet_lite1", 1.0, 240, 5.4, 631, LITE, LITE_NOTE),
    Published("efficientnet_lite2", 1.0, 260, 6.1, 899, LITE, LITE_NOTE),
    Published("efficientnet_lite3", 1.0, 280, 8.2, 1440, LITE, LITE_NOTE),
    Published("efficientnet_lite4", 1.0, 300, 13.0, 2640, LITE, LITE_NOTE),
    Published("fbnet_c", 1.0, 224, 5.5, 375, "1812.03443"),
    Published("chamnet_a", 1.0, 224, 6.2, 552.9, CHAMNET),
    Published(*("chamnet_b", 1.0, 192, 5.2, 323.3, CHAMNET), note="one stage has 92 channels there, here 96"),
    Published("chamnet_c", 1.0, 224, 3.4, 211.6, CHAMNET),
    Published("chamnet_d", 1.0, 192, 3.3, 120.0, CHAMNET),
    Published("chamnet_e", 1.0, 160, 2.3, 53.7, CHAMNET),
    Published("chamnet_f", 1.0, 128, 2.0, 30.8, CHAMNET),
    Published(
        *("mobilenet_v4_conv_small", 1.0, 224, 3.8, 200, "2404.10518"),
        note="MACs printed as 0.2 G",
    ),
    Published(
        *("mobilenet_v4_conv_medium", 1.0, 256, 9.2, 1000, "2404.10518"),
        note="MACs printed as 1.0 G; parameters unexplained: the published weights have these shapes",
    ),
)
