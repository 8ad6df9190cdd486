// Marks wide and large pictures, which site.css does not shrink to a narrow screen.
addEventListener("load", () => {
  for (const image of document.querySelectorAll("article img")) {
    image.classList.toggle("wide", image.naturalWidth > Math.min(2 * image.naturalHeight, 1700));
  }
});
