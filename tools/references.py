"""What stands beside the results: figures of the courses, of papers, of the same by hand, and exact ones."""

TRUTH_2019 = "the truth on these points: 4.4467, 3.2077 bits"
FULL = "CS294-158, all images, 20 epochs:"
# What stands beside the results, table by table: (system, data) -> figures, and where they are from.
REFERENCES = {
    "Bounds": {
        (
            "vae",
            "mnist",
        ): "by hand in plain PyTorch: -ELBO 99.49; CS236: 101.5 ± 0.55, -IWAE 99.83, 97.13, 96.1, 95.62",
        (
            "made steps=20000 hidden=4000",
            "mnist",
        ): "Germain et al., 8 000 units, one binarisation: 88.40 with a mask, 86.64 with 32",
        (
            "pixel_vae precision=bfloat16",
            "mnist",
        ): "CS294-158 (2020): 85.93; Chen et al. 2017: 79.48, KL 10.60",
        ("gmvae", "mnist"): "by hand: -ELBO 97.02; CS236: 97.22 ± 0.54, -IWAE 97.22, 94.74, 93.8, 93.38",
    },
    "Points": {
        ("vae2d", "gauss-full-1"): "the 2020 solution: 4.4388; the truth on these points: 4.4184",
        ("vae2d", "gauss-full-2"): "the 2020 solution: 4.4488; the truth on these points: 4.4184",
        ("vae2d", "gauss-diag-1"): "the 2020 solution: 4.4213; the truth on these points: 4.4184",
        ("vae2d", "gauss-diag-2"): "the 2020 solution: 4.4196; the truth on these points: 4.4184",
        ("vae2d", "gauss-2019-diag"): TRUTH_2019,
        ("vae2d", "gauss-2019-full"): TRUTH_2019,
        ("vae2d decoder=scalar", "gauss-2019-diag"): TRUTH_2019,
        ("vae2d decoder=scalar", "gauss-2019-full"): TRUTH_2019,
        (
            "vae2d steps=20000 batch_size=256 lr=0.003 lr_warmup=1000 warmup=5000 layers=3",
            "smiley",
        ): "the truth: 1.3246, 0.9555 bits; by hand, 80 epochs: 1.155 bits",
        ("flow", "smiley"): "the truth: 1.3246, 0.9555 bits",
    },
    "Squared errors": {
        ("ae", "mnist"): "CS566, a log of other strides: 0.0051 on training batches",
        ("beta_vae steps=2345", "mnist"): "the mean digit: 0.067",
        ("beta_vae steps=2345 beta=10", "mnist"): "the mean digit: 0.067",
        ("conv_vae steps=2345", "mnist"): "the mean digit: squared error 211",
        (
            "conv_vae steps=1420",
            "svhn_10k.npz",
        ): f"by hand: 65.42 + 23.65 = 89.06; {FULL} 79.38 + 24.66 = 104.04",
        (
            "conv_vae steps=3140",
            "cifar10_20k.npz",
        ): f"by hand: 213.26 + 30.57 = 243.83; {FULL} 210.07 + 31.54 = 241.61",
        ("hvae steps=6000 precision=bfloat16", "svhn_10k.npz"): f"{FULL} 90.82 + 17.11 = 107.94",
    },
    "Codes": {
        ("vqvae steps=1420 precision=bfloat16", "svhn_10k.npz"): f"{FULL} loss 0.0286 (2020)",
        ("vqvae steps=3140 precision=bfloat16", "cifar10_20k.npz"): f"{FULL} loss 0.0474 (2020)",
        (
            "code_pixelcnn steps=300 ema=0.99 precision=bfloat16 codes=128",
            "codes-of-svhn_10k.npz",
        ): "CS294-158, all images: 1.944 (2020)",
        (
            "code_transformer steps=1500 lr_warmup=100 ema=0.99 precision=bfloat16 codes=128",
            "codes-of-svhn_10k.npz",
        ): "CS294-158, all images: 1.968 (2024)",
        (
            "code_pixelcnn steps=400 ema=0.99 precision=bfloat16 codes=128",
            "codes-of-cifar10_20k.npz",
        ): "CS294-158, all images: 2.753 (2020)",
    },
    "Labels": {
        ("ssvae", "mnist"): "CS236: 93.40 ± 1.39 %; Pyro's M2 example: 93.19 ± 0.60 %; by hand: 95.1 %",
        ("ssvae gen_weight=0", "mnist"): "CS236: 73.5 %; by hand: 77.0 %",
    },
}
